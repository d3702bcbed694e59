"""Pictures in and out of networks: uint8 (n, H, W, 3) here, float (n, 3, H, W) there, unless a graph speaks uint8 itself.

A network's shape says which it wants: (n, H, W, 3) is uint8 as it is, (n, 3, H, W) is float32 in [0, 1] or in [-1, 1].
"""

from __future__ import annotations

import numpy as np

from engine.arrays import HOST, Array, Home
from engine.kernels import FAST, kernel


def to_network(pixels: np.ndarray, shape: tuple[int, ...], low: float) -> np.ndarray:
    """pixels (H, W, 3) or (n, H, W, 3) uint8 for an input of `shape`, floats from `low` (0 or -1) to 1.

    ValueError on another size.
    """
    pictures = pixels[None] if pixels.ndim == 3 else pixels
    if shape == pictures.shape:
        return pictures
    count, height, width = pictures.shape[:3]
    if shape != (count, 3, height, width):
        raise ValueError(f"the network wants pictures of shape {shape}, not {count} of {width}x{height}")
    planes = np.empty(shape, np.float32)
    for picture, plane in zip(pictures, planes, strict=True):
        _to_planes(picture, np.float32((1.0 - low) / 255.0), np.float32(low), plane)
    return planes


def from_network(array: Array, home: Home = HOST) -> np.ndarray:
    """A network's pictures, (n, H, W, 3) uint8 or (n, 3, H, W) float in [-1, 1], from its `home` as fresh uint8 (n, H, W, 3)."""
    if array.ndim != 4 or 3 not in (array.shape[1], array.shape[3]):
        raise ValueError(f"no picture: shape {tuple(array.shape)}")
    if array.shape[3] == 3:
        return home.host(array, np.empty(array.shape, np.uint8))
    pixels = np.empty((len(array), array.shape[2], array.shape[3], 3), np.uint8)
    for planes, picture in zip(home.host(array), pixels, strict=True):
        _to_pixels(np.ascontiguousarray(planes, np.float32), picture)
    return pixels


@kernel(FAST)
def _to_planes(pixels: np.ndarray, scale: np.float32, low: np.float32, planes: np.ndarray) -> None:
    for y in range(pixels.shape[0]):
        for c in range(3):
            for x in range(pixels.shape[1]):
                planes[c, y, x] = low + scale * np.float32(pixels[y, x, c])


@kernel()
def _to_pixels(planes: np.ndarray, pixels: np.ndarray) -> None:
    half, top = np.float32(127.5), np.float32(255.0)
    for y in range(pixels.shape[0]):
        for c in range(3):
            for x in range(pixels.shape[1]):
                value = half + half * planes[c, y, x] + np.float32(0.5)
                pixels[y, x, c] = np.uint8(min(max(value, np.float32(0.0)), top))
