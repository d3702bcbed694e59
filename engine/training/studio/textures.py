"""Pictures that materials are made of: reading, mip chains, filtered lookups, and a painted studio wall.

It knows nothing about meshes, lights or cameras. Colours are kept as 8-bit sRGB; a lookup goes through a table of 256
floats (`SRGB` for colours, `PLAIN` for data such as normal maps), so one bank serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from PIL import Image, UnidentifiedImageError

from engine.errors import InputError

MAX_LEVELS = 14
FAST = {"contract", "reassoc", "arcp", "nsz", "afn"}


def srgb_to_linear(value: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    v = np.asarray(value, np.float32)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_to_srgb(value: np.ndarray) -> np.ndarray:
    """Linear light to sRGB, clipped to [0, 1]."""
    v = np.clip(np.asarray(value, np.float32), 0.0, 1.0)
    return np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - 0.055).astype(np.float32)


PLAIN = (np.arange(256, dtype=np.float32) / np.float32(255)).astype(np.float32)
SRGB = srgb_to_linear(PLAIN)
TO_SRGB = (linear_to_srgb(np.linspace(0, 1, 8192)) * 255).astype(np.float32)  # linear light in steps of 1/8191
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear red, green, blue (ITU-R BT.709)


def read_texture(path: Path) -> np.ndarray:
    """A picture file as (h, w, 4) uint8, row 0 at its top; alpha 255 where the file has none. Raises InputError."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGBA"), np.uint8).copy()
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(str(path), "texture", "a readable picture file", str(error) or type(error).__name__) from error


def dyed(
    texture: np.ndarray, color: tuple[float, float, float], contrast: float = 1.0, spared: float = 1.0
) -> np.ndarray:
    """`texture` (h, w, 4) uint8 in another colour: hue and mean from `color` (linear light), light and dark from itself.

    `contrast` is the power of its brightness over the median of what is dyed; texels brighter than `spared` (linear)
    keep their colour.
    """
    linear = SRGB[texture[..., :3]]
    light = linear @ LUMA  # (h, w)
    share = np.clip((1.25 * spared - light) / (0.5 * spared), 0, 1) if spared < 1 else np.ones_like(light)
    counted = (texture[..., 3] > 127) & (share > 0.5)
    middle = max(float(np.median(light[counted])) if counted.any() else 1.0, 1e-4)
    relative = np.clip(light / middle, 0.1, 8.0) ** contrast
    painted = relative[..., None] * np.asarray(color, np.float32)
    mixed = linear + share[..., None] * (painted - linear)
    return np.dstack([np.round(linear_to_srgb(mixed) * 255).astype(np.uint8), texture[..., 3]])


def muted(texture: np.ndarray, share: float) -> np.ndarray:
    """`texture` (h, w, 4) uint8 with its colours moved by `share` towards the grey of the same light."""
    linear = SRGB[texture[..., :3]]
    grey = linear @ LUMA
    mixed = linear + share * (grey[..., None] - linear)
    return np.dstack([np.round(linear_to_srgb(mixed) * 255).astype(np.uint8), texture[..., 3]])


@dataclass(frozen=True)
class TextureBank:
    """Every texture with all its mip levels, one behind the other."""

    texels: np.ndarray  # (N, 4) uint8
    levels: np.ndarray  # (T, MAX_LEVELS, 3) int32: first texel, height, width
    counts: np.ndarray  # (T,) int32: levels of each texture


def pack(images: Sequence[np.ndarray], data: Sequence[bool] | None = None) -> TextureBank:
    """Builds the mip chains of `images` ((h, w, 4) uint8); where `data` is true the values are not colours.

    Colours are averaged in linear light, weighted by alpha, and texels of alpha 0 take the colour of their
    surroundings, so that nothing bleeds out of the invisible parts of a texture.
    """
    flags = list(data) if data is not None else [False] * len(images)
    texels: list[np.ndarray] = []
    levels = np.zeros((max(len(images), 1), MAX_LEVELS, 3), np.int32)
    counts = np.zeros(max(len(images), 1), np.int32)
    first = 0
    for index, (image, plain) in enumerate(zip(images, flags, strict=True)):
        for level, picture in enumerate(_mip_chain(image, plain)):
            levels[index, level] = first, picture.shape[0], picture.shape[1]
            counts[index] = level + 1
            texels.append(picture.reshape(-1, 4))
            first += picture.shape[0] * picture.shape[1]
    flat = np.concatenate(texels) if texels else np.zeros((1, 4), np.uint8)
    return TextureBank(np.ascontiguousarray(flat), levels, counts)


def _mip_chain(image: np.ndarray, plain: bool) -> list[np.ndarray]:
    colour = (PLAIN if plain else SRGB)[image[..., :3]]  # (h, w, 3)
    alpha = image[..., 3:].astype(np.float32) / 255
    chain = [(colour * alpha, alpha)]  # premultiplied
    while max(chain[-1][1].shape[:2]) > 1 and len(chain) < MAX_LEVELS:
        chain.append((_halve(chain[-1][0]), _halve(chain[-1][1])))
    straight: list[np.ndarray] = []
    surroundings: np.ndarray | None = None
    for premultiplied, cover in reversed(chain):  # from the coarsest, so that holes are filled from behind
        own = premultiplied / np.maximum(cover, 1e-6)
        if surroundings is not None:
            height, width = cover.shape[:2]
            rows = np.minimum(np.arange(height) // 2, surroundings.shape[0] - 1)
            columns = np.minimum(np.arange(width) // 2, surroundings.shape[1] - 1)
            trust = np.clip(cover * 16, 0, 1)
            own = own * trust + surroundings[rows][:, columns] * (1 - trust)
        surroundings = own
        shown = own if plain else linear_to_srgb(own)
        straight.append((np.concatenate([shown, cover], axis=2).clip(0, 1) * 255 + 0.5).astype(np.uint8))
    return straight[::-1]


def _halve(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    rows, columns = max(height // 2, 1), max(width // 2, 1)
    tall, wide = (2 if height > 1 else 1), (2 if width > 1 else 1)
    cut = picture[: rows * tall, : columns * wide]
    return np.asarray(cut.reshape(rows, tall, columns, wide, picture.shape[2]).mean(axis=(1, 3)))


@njit(cache=True, nogil=True, fastmath=FAST)
def fetch(texels, levels, texture, level, u, v, table):  # type: ignore[no-untyped-def]
    """Bilinear lookup in one level at (u, v), v down, repeating: r, g, b through `table`, alpha in [0, 1]."""
    first, height, width = levels[texture, level, 0], levels[texture, level, 1], levels[texture, level, 2]
    x, y = (u - np.floor(u)) * width - 0.5, (v - np.floor(v)) * height - 0.5
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    fx, fy = np.float32(x - x0), np.float32(y - y0)
    x1, y1 = (x0 + 1) % width, (y0 + 1) % height
    x0, y0 = x0 % width, y0 % height
    a, b = first + y0 * width + x0, first + y0 * width + x1
    c, d = first + y1 * width + x0, first + y1 * width + x1
    one = np.float32(1)
    wa, wb, wc, wd = (one - fx) * (one - fy), fx * (one - fy), (one - fx) * fy, fx * fy
    red = wa * table[texels[a, 0]] + wb * table[texels[b, 0]] + wc * table[texels[c, 0]] + wd * table[texels[d, 0]]
    green = wa * table[texels[a, 1]] + wb * table[texels[b, 1]] + wc * table[texels[c, 1]] + wd * table[texels[d, 1]]
    blue = wa * table[texels[a, 2]] + wb * table[texels[b, 2]] + wc * table[texels[c, 2]] + wd * table[texels[d, 2]]
    alpha = wa * texels[a, 3] + wb * texels[b, 3] + wc * texels[c, 3] + wd * texels[d, 3]
    return red, green, blue, alpha * np.float32(1 / 255)


@njit(cache=True, nogil=True, fastmath=FAST)
def sample(texels, levels, counts, texture, u, v, lod, table):  # type: ignore[no-untyped-def]
    """Trilinear lookup: `lod` 0 is the full texture, each step halves it."""
    top = counts[texture] - 1
    lod = min(max(lod, 0.0), float(top))
    level = int(lod)
    part = np.float32(lod - level)
    red, green, blue, alpha = fetch(texels, levels, texture, level, u, v, table)
    if part > 0.02 and level < top:
        red1, green1, blue1, alpha1 = fetch(texels, levels, texture, level + 1, u, v, table)
        red, green, blue = red + part * (red1 - red), green + part * (green1 - green), blue + part * (blue1 - blue)
        alpha += part * (alpha1 - alpha)
    return red, green, blue, alpha


@njit(cache=True, nogil=True, fastmath=FAST)
def sample_alpha(texels, levels, counts, texture, u, v, lod):  # type: ignore[no-untyped-def]
    """Alpha alone, bilinear, of the nearest level."""
    level = int(min(max(lod + 0.5, 0.0), float(counts[texture] - 1)))
    first, height, width = levels[texture, level, 0], levels[texture, level, 1], levels[texture, level, 2]
    x, y = (u - np.floor(u)) * width - 0.5, (v - np.floor(v)) * height - 0.5
    x0, y0 = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - x0, y - y0
    x1, y1 = (x0 + 1) % width, (y0 + 1) % height
    x0, y0 = x0 % width, y0 % height
    upper = texels[first + y0 * width + x0, 3] * (1 - fx) + texels[first + y0 * width + x1, 3] * fx
    lower = texels[first + y1 * width + x0, 3] * (1 - fx) + texels[first + y1 * width + x1, 3] * fx
    return (upper * (1 - fy) + lower * fy) * (1 / 255)


def studio_background(size: int, seed: int = 0) -> np.ndarray:
    """A news studio far out of focus, (size, size, 3) uint8: a blue-grey wall, a video wall's glow, round lights."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size  # both in [0, 1)

    def colour(red: float, green: float, blue: float) -> np.ndarray:
        return np.array([red, green, blue], np.float32)

    def soft(distance: np.ndarray, blur: float) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(np.clip(distance / blur, -30, 30))))[..., None]  # 1 inside, (h, w, 1)

    middle = np.exp(-(((x - 0.55) / 0.5) ** 2) - ((y - 0.36) / 0.45) ** 2)[..., None]
    picture = colour(0.022, 0.034, 0.055) + middle * colour(0.045, 0.075, 0.115)
    for left, right, top, bottom, light in ((-0.2, 0.17, -0.1, 0.64, 0.075), (0.82, 1.2, -0.1, 0.62, 0.085)):  # screens
        inside = soft(left - x, 0.022) * soft(x - right, 0.022) * soft(top - y, 0.03) * soft(y - bottom, 0.03)
        fall = (0.75 + 0.35 * np.cos(2.2 * (y - 0.25)) ** 2)[..., None]
        picture += inside * fall * light * colour(0.55, 1.0, 1.6)
    for edge in (0.245, 0.33, 0.685, 0.755):  # lit edges of the set's columns
        picture += soft(np.abs(x - edge) - 0.004, 0.004) * (0.25 + 0.5 * (1 - y))[..., None] * colour(0.05, 0.085, 0.13)
    for _ in range(12):  # lamps: discs with a slightly brighter rim, most of them high up
        cx, cy, radius = draw.uniform(0, 1), draw.uniform(0.0, 0.34), draw.uniform(0.022, 0.05)
        tint = colour(1.0, 0.72, 0.42) if draw.uniform() < 0.35 else colour(0.6, 0.85, 1.15)
        far = np.hypot(x - cx, y - cy) - radius
        rim = 0.85 + 0.2 * np.exp(-((far / (0.25 * radius)) ** 2))[..., None]
        picture += soft(far, 0.006) * rim * draw.uniform(0.015, 0.045) * tint
    picture += soft(np.abs(y - 0.74) - 0.008, 0.006) * (0.3 + 0.7 * x)[..., None] * colour(0.06, 0.12, 0.21)
    picture += soft(0.76 - y, 0.02) * colour(0.006, 0.010, 0.017)  # the desk's reflection of the room
    away = np.clip(np.hypot(x - 0.5, y - 0.42) - 0.2, 0, 1)[..., None]
    picture *= 1 - 0.5 * away**1.3
    grain = draw.normal(0, 0.35, (size, size, 3)).astype(np.float32)  # breaks the banding of 8 bits; a still picture
    return np.clip(linear_to_srgb(picture) * 255 + 0.5 + grain, 0, 255).astype(np.uint8)
