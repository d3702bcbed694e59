"""The face in a picture, known from the body alone: five points, the aligned crop, and the way back into the picture.

Pixel coordinates count from the picture's top left corner, pixel centres at halves. A crop transform (2, 3) takes
picture pixels to crop pixels. For the face network's mask 1 means keep and 0 means redraw (`keep_mask`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.body import Body
from engine.camera import Camera
from engine.kernels import kernel
from engine.skeleton import joint_index

CROP = 256

# FFHQ's five points in a 512 pixel crop, pixel centres at whole numbers: the eye on the picture's left, the one on its
# right, the nose tip, the corners of the mouth.
TEMPLATE = ((192.98, 239.95), (318.90, 240.19), (256.63, 314.02), (201.26, 371.41), (313.09, 371.15))
TEMPLATE_SIZE = 512
ERODE, BLUR = 40, 41  # pixels of a 512 pixel crop: how far the pasted square shrinks, and the Gaussian's width

# Where the 51 landmarks (iBUG 68 without the contour) show what.
BROWS, NOSE_TIP, NOSE_BASE = slice(0, 10), 13, 16
EYES, EYE_CORNERS, MOUTH_CORNERS = (slice(19, 25), slice(25, 31)), (19, 28), (31, 37)


def five_points(body: Body, vertices: np.ndarray, camera: Camera) -> np.ndarray:
    """Eye centres, nose tip, mouth corners of posed vertices (V, 3), in the template's order: (5, 2) float32 pixels."""
    marks = body.landmarks(vertices)
    points = np.stack(
        [marks[EYES[0]].mean(axis=0), marks[EYES[1]].mean(axis=0), marks[NOSE_TIP], *marks[list(MOUTH_CORNERS)]]
    )
    return camera.project(points)[:, :2].astype(np.float32)


def align(points: np.ndarray, size: int = CROP) -> np.ndarray:
    """The similarity (2, 3) float32 that takes points (5, 2) nearest to the template of a `size` pixel crop.

    Least squares over rotation, scale and translation without reflection (Umeyama 1991), which in the plane is one
    division of complex numbers. ValueError where the points coincide.
    """
    target = (np.asarray(TEMPLATE, np.float64) + 0.5) * (size / TEMPLATE_SIZE)
    p, q = (np.ascontiguousarray(a, np.float64).view(np.complex128)[:, 0] for a in (points, target))
    centred = p - p.mean()
    spread = np.vdot(centred, centred).real
    if not spread > 1e-9:
        raise ValueError("the five points coincide or are not finite")
    turn = np.vdot(centred, q - q.mean()) / spread
    shift = q.mean() - turn * p.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]], np.float32)


def invert(transform: np.ndarray) -> np.ndarray:
    """The way back: (2, 3) float64, crop pixels to picture pixels."""
    inverse = np.linalg.inv(transform[:, :2].astype(np.float64))
    return np.concatenate([inverse, -inverse @ transform[:, 2:]], axis=1)


def crop_camera(camera: Camera, transform: np.ndarray, size: int = CROP) -> Camera:
    """The camera that sees exactly the crop: a turn of the picture is a roll of the camera, the rest is intrinsics.

    ValueError unless pixels are square and `transform` is a similarity without reflection.
    """
    (a, b), (c, d) = transform[:, :2].astype(np.float64)
    scale = float(np.hypot(a, c))
    if not np.isclose(camera.fx, camera.fy, rtol=1e-6) or not np.allclose([a, b], [d, -c], atol=1e-4 * scale):
        raise ValueError("only a similarity of square pixels is a camera")
    cos, sin = a / scale, c / scale
    roll = np.eye(4)
    roll[:2, :2] = [[cos, sin], [-sin, cos]]  # the picture's y points down, the camera's up
    cx, cy = transform.astype(np.float64) @ (camera.cx, camera.cy, 1.0)
    return replace(
        camera, width=size, height=size, fx=camera.fx * scale, fy=camera.fy * scale, cx=float(cx), cy=float(cy),
        view=roll @ camera.view,
    )  # fmt: skip


def feather(size: int = CROP) -> np.ndarray:
    """Alpha (size, size) float32 of a pasted crop: the square, eroded, then blurred."""
    scale = size / TEMPLATE_SIZE
    radius = round((BLUR // 2) * scale)
    sigma = (0.3 * ((BLUR - 1) * 0.5 - 1) + 0.8) * scale  # the usual sigma of a Gaussian of that many taps
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    edge = np.zeros(size)
    eroded = round(ERODE * scale)
    edge[eroded : size - eroded] = 1.0
    edge = np.convolve(edge, taps / taps.sum(), mode="same")
    return np.outer(edge, edge).astype(np.float32)


def warp(image: np.ndarray, transform: np.ndarray, size: int = CROP, out: np.ndarray | None = None) -> np.ndarray:
    """Cut the crop out of image (H, W, 3) uint8, bilinear, the border repeated: (size, size, 3) uint8."""
    crop = np.empty((size, size, 3), np.uint8) if out is None else out
    if crop.shape != (size, size, 3):
        raise ValueError(f"out must be ({size}, {size}, 3), not {crop.shape}")
    _warp(image, invert(transform), crop)
    return crop


def blend(
    image: np.ndarray, crop: np.ndarray, transform: np.ndarray, alpha: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Paste crop (S, S, 3) back into image (H, W, 3), both uint8, by alpha (S, S); `out` may be `image` itself."""
    result = np.empty_like(image) if out is None else out
    if result is not image:
        result[...] = image
    size, (height, width) = len(crop), image.shape[:2]
    corners = invert(transform) @ np.array([[0, size, 0, size], [0, 0, size, size], [1, 1, 1, 1]], np.float64)  # (2, 4)
    left, top = np.clip(np.floor(corners.min(axis=1)), 0, (width, height)).astype(np.int64)
    right, bottom = np.clip(np.ceil(corners.max(axis=1)), 0, (width, height)).astype(np.int64)
    _paste(result, crop, transform.astype(np.float64), alpha, left, top, right, bottom)
    return result


def keep_mask(face: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The face network's mask (H, W) float32 from `Condition.face_mask()` (H, W) uint8: 1 keep, 0 redraw the face."""
    mask = np.empty(face.shape, np.float32) if out is None else out
    np.subtract(1, face, out=mask, dtype=np.float32)
    return mask


def face_region(body: Body) -> np.ndarray:
    """(F,) bool: the triangles that are face, from forehead to chin and in front of the ears; for any SMPL-X file.

    They follow the head, jaw or eyes, and in the template lie in front of a plane behind the eyes and below the
    hairline, which lies a little less far above the tops of the brows than the nose base lies below them.
    """
    rest, marks = body.template, body.landmarks(body.template)
    follows = body.model.weights[:, [joint_index(name) for name in ("head", "jaw", "left_eye", "right_eye")]].sum(
        axis=1
    )
    eyes = [marks[eye].mean(axis=0) for eye in EYES]
    brow = marks[BROWS, 1].max()
    hairline = brow + 0.65 * (brow - marks[NOSE_BASE, 1])
    behind = marks[list(EYE_CORNERS), 2].mean() - 0.6 * np.linalg.norm(eyes[0] - eyes[1])
    face = (follows > 0.5) & (rest[:, 1] < hairline) & (rest[:, 2] > behind)
    return np.asarray(face[body.faces].all(axis=1))


@kernel()
def _warp(image: np.ndarray, inverse: np.ndarray, out: np.ndarray) -> None:
    height, width = image.shape[:2]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            u = inverse[0, 0] * (x + 0.5) + inverse[0, 1] * (y + 0.5) + inverse[0, 2] - 0.5
            v = inverse[1, 0] * (x + 0.5) + inverse[1, 1] * (y + 0.5) + inverse[1, 2] - 0.5
            u, v = min(max(u, 0.0), width - 1.0), min(max(v, 0.0), height - 1.0)
            x0, y0 = int(u), int(v)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            fu, fv = np.float32(u - x0), np.float32(v - y0)
            for c in range(3):
                above = image[y0, x0, c] + fu * (np.float32(image[y0, x1, c]) - np.float32(image[y0, x0, c]))
                below = image[y1, x0, c] + fu * (np.float32(image[y1, x1, c]) - np.float32(image[y1, x0, c]))
                out[y, x, c] = np.uint8(above + fv * (below - above) + np.float32(0.5))


@kernel()
def _paste(
    image: np.ndarray,
    crop: np.ndarray,
    transform: np.ndarray,
    alpha: np.ndarray,
    left: int,
    top: int,
    right: int,
    bottom: int,
) -> None:
    size = len(crop)
    for y in range(top, bottom):
        for x in range(left, right):
            u = transform[0, 0] * (x + 0.5) + transform[0, 1] * (y + 0.5) + transform[0, 2] - 0.5
            v = transform[1, 0] * (x + 0.5) + transform[1, 1] * (y + 0.5) + transform[1, 2] - 0.5
            if not (0.0 <= u < size - 1.0 and 0.0 <= v < size - 1.0):
                continue
            x0, y0 = int(u), int(v)
            fu, fv = np.float32(u - x0), np.float32(v - y0)
            w00, w01 = (np.float32(1.0) - fu) * (np.float32(1.0) - fv), fu * (np.float32(1.0) - fv)
            w10, w11 = (np.float32(1.0) - fu) * fv, fu * fv
            a = w00 * alpha[y0, x0] + w01 * alpha[y0, x0 + 1] + w10 * alpha[y0 + 1, x0] + w11 * alpha[y0 + 1, x0 + 1]
            if a <= np.float32(0.0):
                continue
            for c in range(3):
                new = (
                    w00 * crop[y0, x0, c] + w01 * crop[y0, x0 + 1, c]
                    + w10 * crop[y0 + 1, x0, c] + w11 * crop[y0 + 1, x0 + 1, c]
                )  # fmt: skip
                old = np.float32(image[y, x, c])
                image[y, x, c] = np.uint8(old + a * (new - old) + np.float32(0.5))
