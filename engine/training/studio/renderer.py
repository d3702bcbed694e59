"""Paints one picture of a dressed person: depth maps, z-buffer, deferred shading, see-through layers, resolve.

It knows nothing about poses or asset files; it gets triangles with materials and, for each picture, their vertices.
Everything that a picture needs is allocated once; a picture depends on nothing but its vertices, so a frame comes
out the same in whatever order or process it is rendered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.camera import Camera
from engine.errors import InputError
from engine.training.studio import compose, raster, shading
from engine.training.studio.lights import Lights, light_matrix, sphere_directions
from engine.training.studio.materials import Material
from engine.training.studio.textures import PLAIN, SRGB, TO_SRGB, pack

LAMP_TEXELS = 3.5  # shadow map texels across the softness of the sharpest lamp
SKY_MAP = 128
SKY_DIRECTIONS = 24


@dataclass(frozen=True, eq=False)
class Part:
    """A surface that moves as one list of vertices. `uv_faces` index `uv` (v up, as in OBJ files) per corner."""

    name: str
    faces: np.ndarray  # (F, 3) int32
    uv: np.ndarray  # (Nuv, 2) float32
    uv_faces: np.ndarray  # (F, 3) int32
    material: Material


class Renderer:
    """Renders the same parts again and again.

        renderer = Renderer(camera, parts, news_studio(), studio_background(512))
        image, alpha = renderer.render([body_vertices, suit_vertices])

    Args:
        camera: in pixels of the final picture.
        background: (H, W, 3) uint8, or None for black.
        supersample: samples along a pixel's side.
        centre, radius: the sphere (metres) within which shadows are cast; by default what the camera frames where its
            axis passes the world's vertical axis.
    """

    def __init__(
        self,
        camera: Camera,
        parts: Sequence[Part],
        lights: Lights,
        background: np.ndarray | None = None,
        supersample: int = 2,
        *,
        centre: tuple[float, float, float] | None = None,
        radius: float | None = None,
    ) -> None:
        self.camera, self.parts, self.lights, self.supersample = camera, tuple(parts), lights, supersample
        self._view = camera.scaled(supersample)
        self._eye = (-camera.view[:3, :3].T @ camera.view[:3, 3]).astype(np.float32)
        focus, reach = _framed(camera, self._eye.astype(np.float64))
        self.centre = np.asarray(centre if centre is not None else focus, np.float64)
        self.radius = reach if radius is None else radius
        self._pack()
        self._light()
        height, width = self._view.height, self._view.width
        self._ids = np.empty((height, width), np.int32)
        self._nearest = np.empty((height, width), np.float32)
        self._samples = np.empty((height, width, 4), np.float32)
        self._heads = np.empty(height * width, np.int32)
        room = max(height * width, 4096) * 3 // 2
        self._links, self._pixels, self._owners, self._spans = (np.empty(room, np.int32) for _ in range(4))
        self._depths, self._shaded = np.empty(room, np.float32), np.empty((room, 4), np.float32)
        empty = np.zeros((camera.height, camera.width, 3), np.uint8)
        if background is not None and (background.shape != empty.shape or background.dtype != np.uint8):
            raise InputError("studio", "background", f"{empty.shape} uint8", f"{background.shape} {background.dtype}")
        self._background = empty if background is None else np.ascontiguousarray(background)

    def _pack(self) -> None:
        """All parts as one list of triangles, one table of surfaces and one bank of textures."""
        images: list[np.ndarray] = []
        data: list[bool] = []
        known: dict[int, int] = {}

        def texture(image: np.ndarray | None, plain: bool) -> int:
            if image is None:
                return -1
            if id(image) not in known:
                known[id(image)] = len(images)
                images.append(image)
                data.append(plain)
            return known[id(image)]

        self._first: list[int] = []  # first vertex of each part
        faces, corners, surfaces, owners = [], [], [], []
        first = 0
        for index, part in enumerate(self.parts):
            m = part.material
            maps = texture(m.base_color_texture, False), texture(m.normal_map, True), texture(m.ao_map, True)
            surfaces.append(m.row(*maps))
            owners.append(np.full(len(part.faces), index, np.int32))
            self._first.append(first)
            faces.append(part.faces.astype(np.int32) + first)
            flipped = part.uv.astype(np.float32) * [1, -1] + [0, 1]
            corners.append(flipped[part.uv_faces].reshape(-1, 6).astype(np.float32))
            first += int(part.faces.max()) + 1 if len(part.faces) else 0
        self._counts = [b - a for a, b in zip(self._first, [*self._first[1:], first], strict=True)]
        self._faces, self._uv = np.concatenate(faces), np.concatenate(corners)
        self._face_surface, self._surfaces = np.concatenate(owners), np.stack(surfaces)
        self._bank = pack(images, data)
        self._solid = np.empty(len(self._faces), np.bool_)
        raster.solid_faces(
            self._uv, self._face_surface, self._surfaces, self._bank.texels, self._bank.levels, self._solid
        )
        self._vertices, self._normals, self._ambient, self._screen = (
            np.zeros((first, 3), np.float32) for _ in range(4)
        )

    def _light(self) -> None:
        sharpest = min(lamp.softness for lamp in self.lights.lamps)
        size = int(np.clip(np.ceil(2 * self.radius * LAMP_TEXELS / sharpest), 64, 1024))
        texel = 2 * self.radius / size
        self._lamps = np.stack([lamp.row(texel) for lamp in self.lights.lamps]).astype(np.float32)
        mirrors = [lamp.row(texel) for lamp in (*self.lights.mirrored, *self.lights.lamps)]
        self._mirrored = np.stack(mirrors).astype(np.float32)
        self._lamp_maps = np.empty((len(self._lamps), size, size), np.float32)
        self._lamp_matrices = np.stack([light_matrix(row[:3], self.centre, self.radius, size) for row in self._lamps])
        self._sky = sphere_directions(SKY_DIRECTIONS).astype(np.float32)
        self._radiance = self.lights.surroundings(self._sky) * np.float32(4 / SKY_DIRECTIONS)
        self._sky_matrices = [light_matrix(d, self.centre, self.radius, SKY_MAP) for d in self._sky]
        self._sky_map = np.empty((SKY_MAP, SKY_MAP), np.float32)
        self._no_ids = np.empty((0, 0), np.int32)

    def render(self, vertices: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """One picture from each part's vertices (V, 3), world metres.

        Returns: image (H, W, 3) uint8 and alpha (H, W) uint8, the person's coverage; both are the caller's own.
        """
        for first, count, moved in zip(self._first, self._counts, vertices, strict=True):
            self._vertices[first : first + count] = moved[:count]
        raster.vertex_normals(self._vertices, self._faces, self._normals)
        self._cast_shadows()
        self._gather_surroundings()

        raster.project(self._view, self._vertices, self._screen)
        self._draw(self._nearest, self._ids, parallel=False)
        count = raster.covered(
            self._ids, self._nearest, self._face_surface, self.supersample, self._view.fx, self._pixels, self._owners,
            self._spans,
        )  # fmt: skip
        self._shade(count, solid=True)
        self._samples[:] = 0
        compose.spread(self._pixels, self._spans, count, self._shaded, self._samples)

        bank = self._bank
        count = raster.collect(
            self._screen, self._faces, self._uv, self._face_surface, self._surfaces, self._solid, bank.texels,
            bank.levels, bank.counts, self._nearest, self._heads, self._links, self._pixels, self._owners, self._depths,
        )  # fmt: skip
        self._spans[:count] = 1
        self._shade(count, solid=False)
        compose.layer(self._heads, self._links, self._shaded, self._samples.reshape(-1, 4))

        image = np.empty((self.camera.height, self.camera.width, 3), np.uint8)
        alpha = np.empty((self.camera.height, self.camera.width), np.uint8)
        compose.resolve(self._samples, self.supersample, self._background, SRGB, TO_SRGB, image, alpha)
        return image, alpha

    def _draw(self, nearest: np.ndarray, ids: np.ndarray, parallel: bool) -> None:
        nearest[:] = raster.EMPTY
        ids[:] = -1
        bank = self._bank
        raster.draw(
            self._screen, self._faces, self._uv, self._face_surface, self._surfaces, self._solid, bank.texels,
            bank.levels, bank.counts, not parallel, not parallel, nearest, ids,
        )  # fmt: skip

    def _cast_shadows(self) -> None:
        for matrix, depth_map in zip(self._lamp_matrices, self._lamp_maps, strict=True):
            raster.transform(self._vertices, matrix, self._screen)
            self._draw(depth_map, self._no_ids, parallel=True)

    def _gather_surroundings(self) -> None:
        self._ambient[:] = 0
        texel = np.float32(2 * self.radius / SKY_MAP)
        for matrix, direction, radiance in zip(self._sky_matrices, self._sky, self._radiance, strict=True):
            raster.transform(self._vertices, matrix, self._screen)
            self._draw(self._sky_map, self._no_ids, parallel=True)
            shading.gather(
                self._vertices, self._normals, matrix, self._sky_map, direction, radiance, texel, texel, self._ambient
            )

    def _shade(self, count: int, solid: bool) -> None:
        bank = self._bank
        shading.shade(
            self._pixels, self._owners, self._spans, count, self._view.width, self._screen, self._vertices,
            self._normals, self._ambient, self._faces, self._uv, self._face_surface, self._surfaces,
            bank.texels, bank.levels, bank.counts, SRGB, PLAIN, self._eye, self._lamps, self._lamp_maps,
            self._lamp_matrices, self._mirrored, np.float32(self.lights.exposure), solid, self._shaded,
        )  # fmt: skip


def _framed(camera: Camera, eye: np.ndarray) -> tuple[np.ndarray, float]:
    """The point of the camera's axis nearest to the world's vertical axis, and a radius that holds what it frames."""
    ahead = -camera.view[2, :3]
    flat = ahead[0] ** 2 + ahead[2] ** 2
    distance = -(eye[0] * ahead[0] + eye[2] * ahead[2]) / flat if flat > 1e-6 else 1.0
    distance = max(distance, 0.2)
    half = distance * max(camera.width / camera.fx, camera.height / camera.fy) / 2
    return eye + distance * ahead, 1.5 * half
