"""The mesh condition: what the networks see of a pose, rendered from the body in a few milliseconds on one core.

Two styles. "authors" is the scene of Make-Your-Anchor's render script, for their checkpoints. "normals" tells a small
network more: red and green are the camera-space normal's x and y, blue is the body's paint (lips, teeth, iris, fingers)
over a quarter of the normal's z. The background is black in both. It knows nothing of networks or windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from engine.body import Body
from engine.camera import Camera
from engine.face import face_region
from engine.hand import hand_region
from engine.kernels import FAST, kernel
from engine.rasterizer import EMPTY, Raster, Rasterizer, attribute_planes
from engine.shading import Scene, gamma_table, shade, vertex_normals
from engine.skeleton import joint_index

Style = Literal["normals", "authors"]

LEFT_HAND, RIGHT_HAND, FACE = 1, 2, 3  # marks of what a pixel shows; 0: the rest

AUTHORS_FOCAL = 5000.0 / 720.0  # pixels a pixel of picture height: 5000 at 1280x720, cut to the square


def authors_camera(translation: np.ndarray, size: int = 512) -> Camera:
    """The camera of Make-Your-Anchor's renders: a square picture of `size` pixels, the body at the world's origin.

    Its pose there is the identity at the clip's camera translation (3,), metres, with y negated. The mesh, whose Y
    points down in such clips, is turned there by 180 degrees about X: the turn that brings it into our convention.
    """
    view = np.eye(4)
    view[:3, 3] = [-float(translation[0]), float(translation[1]), -float(translation[2])]
    focal = AUTHORS_FOCAL * size
    return Camera(size, size, focal, focal, size / 2, size / 2, view)


class Condition:
    """Renders one body. Owns its buffers: one thread at a time; results without `out` are fresh arrays."""

    def __init__(self, body: Body, camera: Camera, style: Style = "normals", scene: Scene | None = None) -> None:
        """`camera` sets the picture's size; `scene` is the light of the style "authors". ValueError on other styles."""
        if style not in get_args(Style):
            raise ValueError(f"style must be one of {', '.join(get_args(Style))}, not {style!r}")
        self.body, self.camera, self.style, self.scene = body, camera, style, scene or Scene()
        vertices, faces = len(body.template), len(body.faces)
        self._rasterizer = Rasterizer(body.faces, vertices, camera.width, camera.height)
        self._gamma = gamma_table()
        self._used = np.zeros(vertices, np.bool_)
        self._attributes = np.zeros((vertices, 3 if style == "authors" else 4), np.float32)  # normal, paint
        self._planes = np.zeros((faces, self._attributes.shape[1], 3), np.float32)
        self._paint_share = 0.0
        if style == "normals" and body.paint.any():
            self._attributes[:, 3] = body.paint
            self._paint_share = 0.75
        self._region = hand_region(body)  # (F,) marks
        self._region[face_region(body)] = FACE

    @property
    def raster(self) -> Raster:
        """Triangle and depth buffers of the last render."""
        return self._rasterizer.raster

    def render(self, vertices: np.ndarray, out: np.ndarray | None = None, camera: Camera | None = None) -> np.ndarray:
        """Draw posed vertices (V, 3), metres, into (H, W, 3) uint8.

        `camera` replaces the usual one for this picture (a face crop, say); it must be of the same size.
        """
        view = camera or self.camera
        shape = (self.camera.height, self.camera.width, 3)
        picture = np.empty(shape, np.uint8) if out is None else out
        if picture.shape != shape or picture.dtype != np.uint8:
            raise ValueError(f"out must be uint8 {shape}, not {picture.dtype} {picture.shape}")
        raster = self._rasterizer.draw(vertices, view)
        vertex_normals(vertices, self.body.faces, raster, view, self._used, self._attributes)
        attribute_planes(self.body.faces, raster, self._attributes, self._planes)
        picture[...] = 0
        if self.style == "authors":
            shade(raster, self._planes, view, self.scene, self._gamma, picture)
        else:
            _paint_normals(raster.triangle, raster.inverse_depth, raster.box, self._planes, self._paint_share, picture)
        return picture

    def marks(self, out: np.ndarray | None = None) -> np.ndarray:
        """(H, W) uint8: LEFT_HAND, RIGHT_HAND or FACE where the last render shows one of them, else 0."""
        raster = self.raster
        marks = np.empty(raster.triangle.shape, np.uint8) if out is None else out
        _mark(raster.triangle, self._region, marks)
        return marks

    def face_mask(self) -> np.ndarray:
        """(H, W) uint8: 1 where the last render shows the face, else 0."""
        mask: np.ndarray = np.equal(self.marks(), FACE).astype(np.uint8)
        return mask

    def hand_mask(self) -> np.ndarray:
        """(H, W) uint8: 1 where the last render shows the left hand, 2 where the right one, else 0."""
        marks = self.marks()
        marks[marks == FACE] = 0
        return marks


@dataclass(frozen=True)
class Keypoints:
    """Where face and hands are in a picture, in pixels."""

    face: np.ndarray  # (51, 2) float32, iBUG order without the contour
    left_hand: np.ndarray  # (16, 2) float32: the wrist, then three joints each of index, middle, pinky, ring, thumb
    right_hand: np.ndarray  # (16, 2) float32


def keypoints(body: Body, camera: Camera, vertices: np.ndarray, joints: np.ndarray) -> Keypoints:
    """Project the face landmarks of vertices (V, 3) and the hands of joints (55, 3)."""
    hands = []
    for side in ("left", "right"):
        fingers = range(joint_index(f"{side}_index1"), joint_index(f"{side}_thumb3") + 1)
        hands.append(joints[[joint_index(f"{side}_wrist"), *fingers]])
    seen = (camera.project(points)[:, :2].astype(np.float32) for points in (body.landmarks(vertices), *hands))
    return Keypoints(*seen)


@kernel(FAST)
def _paint_normals(
    triangle: np.ndarray,
    inverse_depth: np.ndarray,
    box: np.ndarray,
    planes: np.ndarray,
    paint_share: float,
    out: np.ndarray,
) -> None:
    half, one, share = np.float32(127.5), np.float32(1.0), np.float32(paint_share)
    for y in range(box[1], box[3]):
        v = np.float32(y + 0.5)
        for x in range(box[0], box[2]):
            f = triangle[y, x]
            if f == EMPTY:
                continue
            u = np.float32(x + 0.5)
            nx = planes[f, 0, 0] * u + planes[f, 0, 1] * v + planes[f, 0, 2]
            ny = planes[f, 1, 0] * u + planes[f, 1, 1] * v + planes[f, 1, 2]
            nz = planes[f, 2, 0] * u + planes[f, 2, 1] * v + planes[f, 2, 2]
            scale = one / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-20))
            paint = (planes[f, 3, 0] * u + planes[f, 3, 1] * v + planes[f, 3, 2]) / inverse_depth[y, x]
            depth_cue = max(nz * scale, np.float32(0.0)) * np.float32(255.0)
            blue = depth_cue + share * (min(max(paint, np.float32(0.0)), np.float32(255.0)) - depth_cue)
            out[y, x, 0] = np.uint8(half + half * nx * scale + np.float32(0.5))
            out[y, x, 1] = np.uint8(half + half * ny * scale + np.float32(0.5))
            out[y, x, 2] = np.uint8(blue + np.float32(0.5))


@kernel()
def _mark(triangle: np.ndarray, region: np.ndarray, out: np.ndarray) -> None:
    for y in range(triangle.shape[0]):
        for x in range(triangle.shape[1]):
            f = triangle[y, x]
            out[y, x] = 0 if f == EMPTY else region[f]
