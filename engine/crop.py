"""A crop of a picture that is painted again at a scale of its own: cut out, masked, and pasted back.

Pixel coordinates count from the picture's top left corner, pixel centres at halves. A transform (2, 3) takes picture pixels to
crop pixels. In a mask 255 means redraw and 0 keep. It knows neither faces nor hands.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.camera import Camera
from engine.kernels import kernel

# Pixels of a crop of 512: how far a pasted square shrinks, and the width of the Gaussian that its edge becomes.
ERODE, BLUR, OF = 40, 41, 512
# How far a soft mask reaches beyond what it masks, as a part of the crop's side, and up to where it is whole.
SOFT_REACH, SOFT_GAIN = 1 / 16, 4


def invert(transform: np.ndarray) -> np.ndarray:
    """The way back: (2, 3) float64, crop pixels to picture pixels."""
    inverse = np.linalg.inv(transform[:, :2].astype(np.float64))
    return np.concatenate([inverse, -inverse @ transform[:, 2:]], axis=1)


def crop_camera(camera: Camera, transform: np.ndarray, size: int) -> Camera:
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


def feather(size: int) -> np.ndarray:
    """Alpha (size, size) float32 of a pasted crop: the square, eroded, then blurred."""
    scale = size / OF
    radius = round((BLUR // 2) * scale)
    sigma = (0.3 * ((BLUR - 1) * 0.5 - 1) + 0.8) * scale  # the usual sigma of a Gaussian of that many taps
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    edge = np.zeros(size)
    eroded = round(ERODE * scale)
    edge[eroded : size - eroded] = 1.0
    edge = np.convolve(edge, taps / taps.sum(), mode="same")
    return np.outer(edge, edge).astype(np.float32)


def warp(image: np.ndarray, transform: np.ndarray, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """Cut the crop out of image (H, W, 3) uint8, bilinear, the border repeated: (size, size, 3) uint8."""
    crop = np.empty((size, size, 3), np.uint8) if out is None else out
    if crop.shape != (size, size, 3):
        raise ValueError(f"out must be ({size}, {size}, 3), not {crop.shape}")
    _warp(image, invert(transform), crop)
    return crop


def warp_mask(
    marks: np.ndarray, mark: int, transform: np.ndarray, size: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Where in the crop `mark` is in marks (H, W) uint8: (size, size) uint8, 0 to 255 bilinear, 0 outside of the picture."""
    mask = np.empty((size, size), np.uint8) if out is None else out
    if mask.shape != (size, size):
        raise ValueError(f"out must be ({size}, {size}), not {mask.shape}")
    _warp_mask(marks, mark, invert(transform), mask)
    return mask


def soften(mask: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """A mask (S, S) uint8 grown over its border and fading out from there; `out` may be `mask` itself.

    It is its mean over a square of radius S / 16 times 4, at most 255: whole up to S / 32 beyond a straight border.
    """
    result = np.empty_like(mask) if out is None else out
    radius = max(1, round(SOFT_REACH * len(mask)))
    _soften(mask, radius, SOFT_GAIN / (2 * radius + 1) ** 2, np.empty(mask.shape, np.int32), result)
    return result


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
def _warp_mask(marks: np.ndarray, mark: int, inverse: np.ndarray, out: np.ndarray) -> None:
    height, width = marks.shape
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            u = inverse[0, 0] * (x + 0.5) + inverse[0, 1] * (y + 0.5) + inverse[0, 2]
            v = inverse[1, 0] * (x + 0.5) + inverse[1, 1] * (y + 0.5) + inverse[1, 2]
            if not (0.0 <= u < width and 0.0 <= v < height):
                out[y, x] = 0
                continue
            u, v = min(max(u - 0.5, 0.0), width - 1.0), min(max(v - 0.5, 0.0), height - 1.0)
            x0, y0 = int(u), int(v)
            x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
            a, b, c, d = marks[y0, x0] == mark, marks[y0, x1] == mark, marks[y1, x0] == mark, marks[y1, x1] == mark
            if a == b == c == d:  # nearly everywhere
                out[y, x] = 255 if a else 0
                continue
            fu, fv = u - x0, v - y0
            above, below = (1.0 - fu) * a + fu * b, (1.0 - fu) * c + fu * d
            out[y, x] = np.uint8(255.0 * (above + fv * (below - above)) + 0.5)


@kernel()
def _soften(mask: np.ndarray, radius: int, gain: float, rows: np.ndarray, out: np.ndarray) -> None:
    """Sums over squares as sums over rows, then over columns; beyond the border there is nothing."""
    height, width = mask.shape
    for y in range(height):
        total = 0
        for x in range(-radius, width):
            if x + radius < width:
                total += mask[y, x + radius]
            if x >= 0:
                rows[y, x] = total
                if x >= radius:
                    total -= mask[y, x - radius]
    for x in range(width):
        total = 0
        for y in range(-radius, height):
            if y + radius < height:
                total += rows[y + radius, x]
            if y >= 0:
                out[y, x] = np.uint8(min(gain * total + 0.5, 255.0))
                if y >= radius:
                    total -= rows[y - radius, x]


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
