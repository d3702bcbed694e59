"""From samples to a picture: see-through layers over solid ones, then the filter that makes pixels of samples."""

from __future__ import annotations

import numpy as np
from numba import njit

from engine.training.studio.textures import FAST


@njit(cache=True, nogil=True, fastmath=FAST)
def spread(pixels, spans, count, shaded, picture):  # type: ignore[no-untyped-def]
    """Writes the entries `shaded` (N, 4) into the blocks of `picture` (H, W, 4) that they stand for."""
    height, width = picture.shape[:2]
    for i in range(count):
        top, left = pixels[i] // width, pixels[i] % width
        for y in range(top, min(top + spans[i], height)):
            for x in range(left, min(left + spans[i], width)):
                for k in range(4):
                    picture[y, x, k] = shaded[i, k]


@njit(cache=True, nogil=True, fastmath=FAST)
def layer(heads, links, shaded, picture):  # type: ignore[no-untyped-def]
    """Lays the fragments `shaded` (N, 4) over `picture` (H * W, 4), premultiplied, from far to near."""
    for i in range(heads.shape[0]):
        n = heads[i]
        while n >= 0:
            rest = np.float32(1) - shaded[n, 3]
            for k in range(4):
                picture[i, k] = shaded[n, k] + rest * picture[i, k]
            n = links[n]


@njit(cache=True, nogil=True, fastmath=FAST)
def resolve(samples, factor, background, image, alpha):  # type: ignore[no-untyped-def]
    """Samples (h * factor, w * factor, 4), premultiplied, to `image` (h, w, 3) and `alpha` (h, w) uint8.

    The filter is a tent two pixels wide (a lens is no box), and `background` (h, w, 3) is linear.
    """
    height, width = alpha.shape
    reach = 2 * factor if factor > 1 else 1
    first = (reach - factor) // 2
    weights = np.zeros(reach, np.float32)
    for i in range(reach):
        weights[i] = np.float32(1) - abs(i - first + 0.5 - 0.5 * factor) / factor if factor > 1 else np.float32(1)
    for y in range(height):
        for x in range(width):
            red = green = blue = cover = total = np.float32(0)
            for i in range(reach):
                sy = y * factor + i - first
                if sy < 0 or sy >= samples.shape[0]:
                    continue
                for j in range(reach):
                    sx = x * factor + j - first
                    if sx < 0 or sx >= samples.shape[1]:
                        continue
                    weight = weights[i] * weights[j]
                    total += weight
                    red += weight * samples[sy, sx, 0]
                    green += weight * samples[sy, sx, 1]
                    blue += weight * samples[sy, sx, 2]
                    cover += weight * samples[sy, sx, 3]
            rest = max(np.float32(1) - cover / total, np.float32(0))
            image[y, x, 0] = _encode(red / total + rest * background[y, x, 0])
            image[y, x, 1] = _encode(green / total + rest * background[y, x, 1])
            image[y, x, 2] = _encode(blue / total + rest * background[y, x, 2])
            alpha[y, x] = np.uint8(min(cover / total, np.float32(1)) * 255 + 0.5)


@njit(cache=True, nogil=True, fastmath=FAST)
def _encode(value):  # type: ignore[no-untyped-def]
    value = min(max(value, np.float32(0)), np.float32(1))
    coded = (
        value * np.float32(12.92)
        if value <= 0.0031308
        else np.float32(1.055) * value ** np.float32(1 / 2.4) - np.float32(0.055)
    )
    return np.uint8(coded * 255 + 0.5)
