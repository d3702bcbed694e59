"""Smooth normals of a mesh, and the light of the authors' scene on it: glTF's metallic-roughness model, pixel by pixel.

The light model is the one of glTF 2.0, appendix B (Lambert, GGX, Schlick), in the form in which pyrender evaluates it,
clamps included, since the authors' networks were trained on pyrender's pictures. All of it happens in camera space. It
knows no bodies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.camera import Camera
from engine.kernels import FAST, kernel
from engine.rasterizer import EMPTY, Raster

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """White lights around one material, in world coordinates. The defaults are Make-Your-Anchor's render script."""

    base_color: tuple[float, float, float] = (0.3, 0.5, 0.55)
    metallic: float = 0.2
    roughness: float = 0.6
    ambient: float = 0.3
    points: tuple[Point, ...] = ((0.0, -1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 2.0))
    point_intensity: float = 1.0
    point_color: float = 0.2
    spots: tuple[Point, ...] = ((1.0, 2.0, 2.0), (-1.0, 2.0, 2.0))  # all shine along -Z
    spot_intensity: float = 15.0
    inner_cone: float = math.pi / 3
    outer_cone: float = math.pi / 2

    def lights(self, camera: Camera) -> np.ndarray:
        """(L, 9) float32, camera space: position, direction, intensity, and scale and offset of the cone."""
        scale = 1.0 / max(0.001, math.cos(self.inner_cone) - math.cos(self.outer_cone))
        cone = (scale, -scale * math.cos(self.outer_cone))
        rotation, shift = camera.view[:3, :3], camera.view[:3, 3]
        ahead = rotation @ (0.0, 0.0, -1.0)
        points = [
            [*(rotation @ p + shift), *ahead, self.point_intensity * self.point_color, 0.0, 1.0] for p in self.points
        ]
        spots = [[*(rotation @ p + shift), *ahead, self.spot_intensity, *cone] for p in self.spots]
        return np.array(points + spots, np.float32)

    def material(self) -> np.ndarray:
        """(3, 4) float32 by channel: diffuse albedo / pi, reflectance at normal incidence, ambient light, roughness."""
        color = np.array(self.base_color)
        diffuse = color * (1.0 - 0.04) * (1.0 - self.metallic) / math.pi
        normal_reflectance = 0.04 + (color - 0.04) * self.metallic
        return np.stack([diffuse, normal_reflectance, color * self.ambient, np.full(3, self.roughness)], 1).astype(
            np.float32
        )


def vertex_normals(
    vertices: np.ndarray, faces: np.ndarray, raster: Raster, camera: Camera, used: np.ndarray, out: np.ndarray
) -> None:
    """Unit normals in camera space into out (V, >=3) float32: face normals weighted by their angle at the vertex.

    Only vertices of drawn triangles are computed; `used` (V,) bool is scratch that tells which.
    """
    _vertex_normals(vertices, faces, raster.drawn, camera.view[:3, :3], used, out)


def gamma_table() -> np.ndarray:
    """(GAMMA_STEPS + 1,) uint8: linear light in [0, 1] to picture levels, gamma 2.2."""
    return np.round(255.0 * np.linspace(0.0, 1.0, GAMMA_STEPS + 1) ** (1 / 2.2)).astype(np.uint8)


def shade(raster: Raster, planes: np.ndarray, camera: Camera, scene: Scene, gamma: np.ndarray, out: np.ndarray) -> None:
    """Light the covered pixels of out (H, W, 3) uint8.

    planes (F, >=3, 3): the normals as `rasterizer.attribute_planes` makes them. gamma: `gamma_table()`.
    """
    _shade(
        raster.triangle, raster.inverse_depth, raster.box, planes, camera.fx, camera.fy, camera.cx, camera.cy,
        scene.lights(camera), scene.material(), gamma, out,
    )  # fmt: skip


GAMMA_STEPS = 8192
BLOCK = 128  # pixels that are lit at a time: the loops over a block become vector instructions
NORMAL, POSITION, VIEW, FACING, SHADOWING, PLAIN, FRESNEL, GLOSS, GLOSS_FRESNEL = (
    BLOCK * row for row in (0, 3, 6, 9, 10, 11, 12, 13, 14)
)
ROWS = 15


@kernel(FAST)
def _corner_angle(sine: float, cosine: float) -> float:
    """The angle of (cosine, sine), sine >= 0, within 0.01 rad: enough for a weight, at a fifth of the cost of atan2."""
    acute = cosine >= np.float32(0.0)
    r = (cosine - sine if acute else cosine + sine) / (sine + abs(cosine))
    middle = np.float32(math.pi / 4) if acute else np.float32(3 * math.pi / 4)
    angle: float = middle + r * (np.float32(0.1963) * r * r - np.float32(0.9817))  # type: ignore[assignment]
    return angle


@kernel(FAST)
def _vertex_normals(
    vertices: np.ndarray, faces: np.ndarray, drawn: np.ndarray, rotation: np.ndarray, used: np.ndarray, out: np.ndarray
) -> None:
    used[:] = False
    for f in range(len(faces)):
        if drawn[f]:
            for corner in range(3):
                v = faces[f, corner]
                used[v] = True
                out[v, 0] = out[v, 1] = out[v, 2] = 0.0
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        if not (used[i] or used[j] or used[k]):
            continue
        ux, uy, uz = vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2]
        wx, wy, wz = vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2]
        nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        length = np.sqrt(nx * nx + ny * ny + nz * nz)  # twice the area, and the sine of every corner times its legs
        if length < 1e-20:
            continue
        uw, uu = ux * wx + uy * wy + uz * wz, ux * ux + uy * uy + uz * uz
        at_i, at_j = _corner_angle(length, uw), _corner_angle(length, uu - uw)
        scale = np.float32(1.0) / length
        nx, ny, nz = nx * scale, ny * scale, nz * scale
        for v, angle in ((i, at_i), (j, at_j), (k, np.float32(math.pi) - at_i - at_j)):
            out[v, 0] += angle * nx
            out[v, 1] += angle * ny
            out[v, 2] += angle * nz
    for v in range(len(vertices)):
        if used[v]:
            x, y, z = out[v, 0], out[v, 1], out[v, 2]
            scale = np.float32(1.0) / np.sqrt(max(x * x + y * y + z * z, np.float32(1e-30)))
            for axis in range(3):
                out[v, axis] = (rotation[axis, 0] * x + rotation[axis, 1] * y + rotation[axis, 2] * z) * scale


@kernel(FAST)
def _shade(
    triangle: np.ndarray, inverse_depth: np.ndarray, box: np.ndarray, planes: np.ndarray,
    fx: float, fy: float, cx: float, cy: float,
    lights: np.ndarray, material: np.ndarray, gamma: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Collect covered pixels into blocks, light each block, and write it out."""
    block = np.ones(ROWS * BLOCK, np.float32)
    xs, ys = np.zeros(BLOCK, np.int32), np.zeros(BLOCK, np.int32)
    step_x, step_y = np.float32(1.0 / fx), np.float32(1.0 / fy)
    filled = 0
    for y in range(box[1], box[3]):
        v = np.float32(y + 0.5)
        ray_y = np.float32(cy - (y + 0.5)) * step_y
        for x in range(box[0], box[2]):
            f = triangle[y, x]
            if f == EMPTY:
                continue
            u = np.float32(x + 0.5)
            depth = np.float32(1.0) / inverse_depth[y, x]
            for axis in range(3):
                block[NORMAL + axis * BLOCK + filled] = (
                    planes[f, axis, 0] * u + planes[f, axis, 1] * v + planes[f, axis, 2]
                )
            block[POSITION + filled] = (np.float32(x + 0.5) - np.float32(cx)) * step_x * depth
            block[POSITION + BLOCK + filled] = ray_y * depth
            block[POSITION + 2 * BLOCK + filled] = -depth
            xs[filled], ys[filled] = x, y
            filled += 1
            if filled == BLOCK:
                _light_block(block, lights, material)
                _write_block(block, filled, material, gamma, xs, ys, out)
                filled = 0
    _light_block(block, lights, material)
    _write_block(block, filled, material, gamma, xs, ys, out)


@kernel(FAST)
def _light_block(block: np.ndarray, lights: np.ndarray, material: np.ndarray) -> None:
    """Sum over lights what no channel depends on: light, light x Fresnel, gloss, gloss x Fresnel."""
    one, tiny = np.float32(1.0), np.float32(1e-20)
    roughness = material[0, 3]
    k = (roughness + one) * (roughness + one) * np.float32(0.125)
    rest = one - k
    a2 = roughness * roughness * roughness * roughness
    for i in range(BLOCK):
        nx, ny, nz = block[NORMAL + i], block[NORMAL + BLOCK + i], block[NORMAL + 2 * BLOCK + i]
        px, py, pz = block[POSITION + i], block[POSITION + BLOCK + i], block[POSITION + 2 * BLOCK + i]
        n_scale = one / np.sqrt(nx * nx + ny * ny + nz * nz + tiny)
        p_scale = -one / np.sqrt(px * px + py * py + pz * pz + tiny)
        nx, ny, nz, vx, vy, vz = nx * n_scale, ny * n_scale, nz * n_scale, px * p_scale, py * p_scale, pz * p_scale
        facing = nx * vx + ny * vy + nz * vz
        nv = min(max(abs(facing), np.float32(0.001)), one)
        block[NORMAL + i], block[NORMAL + BLOCK + i], block[NORMAL + 2 * BLOCK + i] = nx, ny, nz
        block[VIEW + i], block[VIEW + BLOCK + i], block[VIEW + 2 * BLOCK + i] = vx, vy, vz
        block[FACING + i] = facing
        block[SHADOWING + i] = nv / (nv * rest + k)  # Smith's term towards the camera
        block[PLAIN + i] = block[FRESNEL + i] = block[GLOSS + i] = block[GLOSS_FRESNEL + i] = np.float32(0.0)
    for light in range(len(lights)):
        lx0, ly0, lz0 = lights[light, 0], lights[light, 1], lights[light, 2]
        ax, ay, az = lights[light, 3], lights[light, 4], lights[light, 5]
        intensity, cone_scale, cone_offset = lights[light, 6], lights[light, 7], lights[light, 8]
        for i in range(BLOCK):
            nx, ny, nz = block[NORMAL + i], block[NORMAL + BLOCK + i], block[NORMAL + 2 * BLOCK + i]
            vx, vy, vz = block[VIEW + i], block[VIEW + BLOCK + i], block[VIEW + 2 * BLOCK + i]
            lx, ly, lz = (
                lx0 - block[POSITION + i],
                ly0 - block[POSITION + BLOCK + i],
                lz0 - block[POSITION + 2 * BLOCK + i],
            )
            near = one / (lx * lx + ly * ly + lz * lz)
            scale = np.sqrt(near)
            lx, ly, lz = lx * scale, ly * scale, lz * scale
            lit, facing = nx * lx + ny * ly + nz * lz, block[FACING + i]
            nl = min(max(lit, np.float32(0.001)), one)
            nv = min(max(abs(facing), np.float32(0.001)), one)
            # The half vector h = (l + v) / |l + v|, through the products that are known: |l + v|^2 = 2 + 2 l.v
            half = one + min(max(vx * lx + vy * ly + vz * lz, np.float32(-0.999999)), one)
            vh = np.sqrt(half * np.float32(0.5))
            nh = min(max((lit + facing) / (np.float32(2.0) * vh), np.float32(0.0)), one)
            cone = -(ax * lx + ay * ly + az * lz)
            cone = min(max(min(max(cone, np.float32(0.0)), one) * cone_scale + cone_offset, np.float32(0.0)), one)
            amount = nl * intensity * near * cone * cone
            grazing = one - vh
            fresnel = grazing * grazing * grazing * grazing * grazing
            lobe = nh * nh * (a2 - one) + one
            gloss = (
                nl
                * a2
                * block[SHADOWING + i]
                / (
                    np.float32(math.pi)
                    * lobe
                    * lobe
                    * (nl * rest + k)
                    * (np.float32(4.0) * nl * nv + np.float32(0.001))
                )
            )
            block[PLAIN + i] += amount
            block[FRESNEL + i] += amount * fresnel
            block[GLOSS + i] += amount * gloss
            block[GLOSS_FRESNEL + i] += amount * gloss * fresnel


@kernel(FAST)
def _write_block(
    block: np.ndarray,
    filled: int,
    material: np.ndarray,
    gamma: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    out: np.ndarray,
) -> None:
    """With F = f0 + (1 - f0) fresnel, a channel is: diffuse * sum(1 - F) + sum(F * gloss) + ambient."""
    zero, one = np.float32(0.0), np.float32(1.0)
    for channel in range(3):
        diffuse, f0, ambient = material[channel, 0], material[channel, 1], material[channel, 2]
        f1 = one - f0
        for i in range(BLOCK):
            light = (
                diffuse * f1 * (block[PLAIN + i] - block[FRESNEL + i])
                + f0 * block[GLOSS + i] + f1 * block[GLOSS_FRESNEL + i] + ambient
            )  # fmt: skip
            block[NORMAL + channel * BLOCK + i] = min(max(light, zero), one) * np.float32(GAMMA_STEPS) + np.float32(0.5)
    for i in range(filled):
        y, x = ys[i], xs[i]
        out[y, x, 0] = gamma[np.int32(block[NORMAL + i])]
        out[y, x, 1] = gamma[np.int32(block[NORMAL + BLOCK + i])]
        out[y, x, 2] = gamma[np.int32(block[NORMAL + 2 * BLOCK + i])]
