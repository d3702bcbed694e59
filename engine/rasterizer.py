"""A z-buffer over one triangle mesh: which triangle each pixel sees, and how far away it is.

Coverage follows OpenGL's rules, so that a picture lines up with one from a GPU: pixel centres at halves, vertices
snapped to 1/256 pixel, the top-left rule on shared edges, back faces culled. Depth is kept as its inverse, which is
linear on the screen. Triangles that reach behind the near plane are dropped whole. It knows no normals or colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.camera import Camera
from engine.kernels import kernel

SUBPIXELS = 256
NEAR = 0.05  # metres
# Vertices further out than this (pixels) are dropped: the edge functions stay far from overflowing 64 bits.
GUARD = 1 << 20
EMPTY = -1


@dataclass
class Raster:
    """What a mesh covers in a picture. Valid until the next `draw` of the rasterizer that owns it."""

    triangle: np.ndarray  # (H, W) int32, EMPTY where there is none
    inverse_depth: np.ndarray  # (H, W) float32, 1/metres in front of the camera, 0 where empty
    box: np.ndarray  # (4,) int32: left, top, right, bottom (exclusive) of what may be covered
    drawn: np.ndarray  # (F,) bool: triangles that covered a pixel, even if a nearer one took it later
    screen: np.ndarray  # (V, 2) int32, 1/256 pixels
    inverse: np.ndarray  # (V,) float32, inverse depth of the vertices, 0 where dropped

    def depth(self) -> np.ndarray:
        """(H, W) float32 metres, 0 where empty."""
        result = np.zeros_like(self.inverse_depth)
        np.divide(1.0, self.inverse_depth, out=result, where=self.triangle != EMPTY)
        return result

    def covered(self) -> np.ndarray:
        """(H, W) bool."""
        return np.asarray(self.triangle != EMPTY)


class Rasterizer:
    """Draws one mesh topology into its own buffers, again and again, and clears only what it touched."""

    def __init__(self, faces: np.ndarray, vertices: int, width: int, height: int) -> None:
        """faces (F, 3) int32, counter-clockwise seen from outside, over `vertices` vertices."""
        self.faces = np.ascontiguousarray(faces, np.int32)
        self.raster = Raster(
            triangle=np.full((height, width), EMPTY, np.int32),
            inverse_depth=np.zeros((height, width), np.float32),
            box=np.zeros(4, np.int32),
            drawn=np.zeros(len(faces), np.bool_),
            screen=np.zeros((vertices, 2), np.int32),
            inverse=np.zeros(vertices, np.float32),
        )

    def draw(self, vertices: np.ndarray, camera: Camera, cull: bool = True) -> Raster:
        """Draw vertices (V, 3) metres as `camera` sees them; `cull` leaves out faces that look away."""
        raster = self.raster
        height, width = raster.triangle.shape
        if (camera.width, camera.height) != (width, height) or len(vertices) != len(raster.inverse):
            raise ValueError(
                f"made for {len(raster.inverse)} vertices at {width}x{height}, "
                f"not {len(vertices)} at {camera.width}x{camera.height}"
            )
        _project(
            vertices, camera.view, camera.fx, camera.fy, camera.cx, camera.cy, raster.screen, raster.inverse
        )  # fmt: skip
        left, top, right, bottom = raster.box
        raster.triangle[top:bottom, left:right] = EMPTY
        raster.inverse_depth[top:bottom, left:right] = 0.0
        _fill(
            self.faces, raster.screen, raster.inverse, cull,
            raster.triangle, raster.inverse_depth, raster.drawn, raster.box,
        )  # fmt: skip
        return raster

    def barycentrics(self) -> np.ndarray:
        """(H, W, 3) float32, perspective-correct weights of each pixel's three corners; zeros where empty."""
        raster = self.raster
        ys, xs = np.nonzero(raster.triangle != EMPTY)
        corners = self.faces[raster.triangle[ys, xs]]  # (N, 3)
        at = raster.screen[corners] / SUBPIXELS - np.stack([xs + 0.5, ys + 0.5], axis=1)[:, None]  # (N, 3, 2)
        after, before = np.roll(at, -1, axis=1), np.roll(at, 1, axis=1)
        areas = after[..., 0] * before[..., 1] - after[..., 1] * before[..., 0]  # (N, 3), opposite each corner
        over_depth = areas * raster.inverse[corners]
        result = np.zeros((*raster.triangle.shape, 3), np.float32)
        result[ys, xs] = over_depth / over_depth.sum(axis=1, keepdims=True)
        return result


def attribute_planes(faces: np.ndarray, raster: Raster, attributes: np.ndarray, out: np.ndarray) -> None:
    """Make vertex attributes linear on the screen.

    attributes (V, C) float32. For each drawn triangle, out (F, C, 3) float32 gets (a, b, c) such that
    a x + b y + c = attribute / depth at the pixel position (x, y). Divide by the pixel's inverse depth to get the
    attribute, or leave the division out where only its direction matters.
    """
    _planes(faces, raster.drawn, raster.screen, raster.inverse, attributes, out)


@kernel()
def _project(
    vertices: np.ndarray, view: np.ndarray, fx: float, fy: float, cx: float, cy: float,
    screen: np.ndarray, inverse: np.ndarray,
) -> None:  # fmt: skip
    for v in range(len(vertices)):
        x, y, z = np.float64(vertices[v, 0]), np.float64(vertices[v, 1]), np.float64(vertices[v, 2])
        depth = -(view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3])
        inverse[v] = 0.0
        if depth > NEAR:  # false for NaN, too
            px = cx + fx * (view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]) / depth
            py = cy - fy * (view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]) / depth
            if abs(px) < GUARD and abs(py) < GUARD:
                screen[v, 0] = np.int32(np.floor(px * SUBPIXELS + 0.5))
                screen[v, 1] = np.int32(np.floor(py * SUBPIXELS + 0.5))
                inverse[v] = 1.0 / depth


@kernel()
def _fill(
    faces: np.ndarray, screen: np.ndarray, inverse: np.ndarray, cull: bool,
    triangle: np.ndarray, inverse_depth: np.ndarray, drawn: np.ndarray, box: np.ndarray,
) -> None:  # fmt: skip
    height, width = triangle.shape
    half = SUBPIXELS // 2
    left, top, right, bottom = int(width), int(height), 0, 0
    for f in range(len(faces)):
        drawn[f] = False
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        w0, w1, w2 = inverse[i], inverse[j], inverse[k]
        if w0 == 0.0 or w1 == 0.0 or w2 == 0.0:
            continue
        x0, y0 = np.int64(screen[i, 0]), np.int64(screen[i, 1])
        x1, y1 = np.int64(screen[j, 0]), np.int64(screen[j, 1])
        x2, y2 = np.int64(screen[k, 0]), np.int64(screen[k, 1])
        # Pixel rows count downwards, so a face that is counter-clockwise in the world has a negative area here.
        area = (x2 - x0) * (y1 - y0) - (x1 - x0) * (y2 - y0)
        if area == 0 or (cull and area < 0):
            continue
        if area < 0:
            x1, y1, w1, x2, y2, w2 = x2, y2, w2, x1, y1, w1
            area = -area
        # The pixels whose centres lie in the bounding box.
        first_x = max(int((min(x0, x1, x2) + half - 1) >> 8), 0)
        last_x = min(int((max(x0, x1, x2) - half) >> 8), int(width - 1))
        first_y = max(int((min(y0, y1, y2) + half - 1) >> 8), 0)
        last_y = min(int((max(y0, y1, y2) - half) >> 8), int(height - 1))
        if first_x > last_x or first_y > last_y:
            continue
        # Edge functions, positive inside, at the first centre. Only top and left edges own the points on them.
        # Walking 0 -> 1 -> 2 runs against the clock on the screen: left edges go down, top edges go left.
        cx, cy = (first_x << 8) + half, (first_y << 8) + half
        dx0, dy0, dx1, dy1, dx2, dy2 = x2 - x1, y2 - y1, x0 - x2, y0 - y2, x1 - x0, y1 - y0
        e0 = (cx - x1) * dy0 - (cy - y1) * dx0 - (0 if dy0 > 0 or (dy0 == 0 and dx0 < 0) else 1)
        e1 = (cx - x2) * dy1 - (cy - y2) * dx1 - (0 if dy1 > 0 or (dy1 == 0 and dx1 < 0) else 1)
        e2 = (cx - x0) * dy2 - (cy - y0) * dx2 - (0 if dy2 > 0 or (dy2 == 0 and dx2 < 0) else 1)
        # Inverse depth is a plane on the screen.
        scale = 1.0 / area
        slope_x = np.float32((w0 * dy0 + w1 * dy1 + w2 * dy2) * scale * SUBPIXELS)
        slope_y = np.float32(-(w0 * dx0 + w1 * dx1 + w2 * dx2) * scale * SUBPIXELS)
        row = np.float32(w0 + (slope_x * (cx - x0) + slope_y * (cy - y0)) / SUBPIXELS)
        hit = False
        for y in range(first_y, last_y + 1):
            a, b, c, w, entered = e0, e1, e2, row, False
            for x in range(first_x, last_x + 1):
                if (a | b | c) >= 0:
                    entered = True
                    if w > inverse_depth[y, x]:
                        inverse_depth[y, x] = w
                        triangle[y, x] = f
                        hit = True
                elif entered:
                    break
                a += dy0 << 8
                b += dy1 << 8
                c += dy2 << 8
                w += slope_x
            e0 -= dx0 << 8
            e1 -= dx1 << 8
            e2 -= dx2 << 8
            row += slope_y
        if hit:
            drawn[f] = True
            left, right = min(left, first_x), max(right, last_x + 1)
            top, bottom = min(top, first_y), max(bottom, last_y + 1)
    if right <= left:
        left, top, right, bottom = 0, 0, 0, 0
    box[0], box[1], box[2], box[3] = left, top, right, bottom


@kernel()
def _planes(
    faces: np.ndarray,
    drawn: np.ndarray,
    screen: np.ndarray,
    inverse: np.ndarray,
    attributes: np.ndarray,
    out: np.ndarray,
) -> None:
    for f in range(len(faces)):
        if not drawn[f]:
            continue
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0 = screen[i, 0] / SUBPIXELS, screen[i, 1] / SUBPIXELS
        x1, y1 = screen[j, 0] / SUBPIXELS - x0, screen[j, 1] / SUBPIXELS - y0
        x2, y2 = screen[k, 0] / SUBPIXELS - x0, screen[k, 1] / SUBPIXELS - y0
        scale = 1.0 / (x1 * y2 - x2 * y1)
        for c in range(attributes.shape[1]):
            u = attributes[i, c] * inverse[i]
            v, w = attributes[j, c] * inverse[j] - u, attributes[k, c] * inverse[k] - u
            a, b = (v * y2 - w * y1) * scale, (w * x1 - v * x2) * scale
            out[f, c, 0], out[f, c, 1], out[f, c, 2] = a, b, u - a * x0 - b * y0
