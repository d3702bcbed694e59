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
def resolve(samples, factor, background, to_linear, to_srgb, image, alpha):  # type: ignore[no-untyped-def]
    """Samples (h * factor, w * factor, 4), premultiplied, to `image` (h, w, 3) and `alpha` (h, w) uint8.

    The filter is a tent two pixels wide: a lens is no box. `background` (h, w, 3) uint8 shows where nothing covers it.
    """
    height, width = alpha.shape
    top = to_srgb.shape[0] - 1
    reach = 2 * factor if factor > 1 else 1
    first = (reach - factor) // 2
    weights = np.ones(reach, np.float32)
    for i in range(reach):
        if factor > 1:
            weights[i] = np.float32(1) - abs(i - first + np.float32(0.5) - np.float32(0.5) * factor) / factor
    total_colour = np.zeros(4, np.float32)
    for y in range(height):
        for x in range(width):
            total = np.float32(0)
            total_colour[:] = 0
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
                    for k in range(4):
                        total_colour[k] += weight * samples[sy, sx, k]
            if total_colour.max() <= 0:
                alpha[y, x] = 0
                for k in range(3):
                    image[y, x, k] = background[y, x, k]
                continue
            cover = min(total_colour[3] / total, np.float32(1))
            alpha[y, x] = np.uint8(cover * 255 + np.float32(0.5))
            for k in range(3):
                light = total_colour[k] / total + (np.float32(1) - cover) * to_linear[background[y, x, k]]
                place = min(max(light, np.float32(0)), np.float32(1)) * top
                below = min(int(place), top - 1)
                coded = to_srgb[below] + (place - below) * (to_srgb[below + 1] - to_srgb[below])
                image[y, x, k] = np.uint8(coded + np.float32(0.5))
