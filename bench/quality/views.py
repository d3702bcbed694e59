"""Crops of face, body and hands for the landmark network, cut where the mesh says they are, but not exactly there.

A crop that were fitted to its landmarks would tell them: the mean face would do well without looking. So crops for training
are jittered, and those for judging snap to a coarse grid in place and size.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from engine.crop import invert, warp

VIEWS = {"face": "face", "body": "body", "left_hand": "hand", "right_hand": "hand"}  # view: the network that reads it
SIZES = {"face": 128, "body": 128, "hand": 96}  # pixels of a crop
GROWTH = {"face": 1.5, "hand": 1.6}  # side of a crop to the extent of its landmarks
GRID, OCTAVE = 8, 4  # places snap to parts of the side, sides to parts of an octave
SHIFT, SCALE, TURN = (
    0.1,
    (-0.05, 0.25),
    {"face": 0.25, "body": 0.1, "hand": 0.5},
)  # jitter: of the side, log side, radians


def square(name: str, points: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """Centre (2,) and side of the square around points (K, 2) in a picture of `size`; for the body it is the picture."""
    kind = VIEWS[name]
    if kind == "body":
        return np.full(2, size / 2), float(size)
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, GROWTH[kind] * float(max((high - low).max(), size / 64))


def view(name: str, points: np.ndarray, size: int) -> np.ndarray:
    """The crop for judging, picture to crop pixels (2, 3)."""
    centre, side = square(name, points, size)
    if VIEWS[name] != "body":
        side = 2 ** (np.ceil(OCTAVE * np.log2(side)) / OCTAVE)
        centre = np.round(centre / (side / GRID)) * (side / GRID)
    return transform(name, centre, side, SIZES[VIEWS[name]])


def jittered(name: str, points: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random crop for training, picture to crop pixels (2, 3)."""
    kind = VIEWS[name]
    centre, side = square(name, points, size)
    centre = centre + side * rng.uniform(-SHIFT, SHIFT, 2)
    side *= float(np.exp(rng.uniform(*SCALE) - (SCALE[1] if kind == "body" else 0.0)))
    return transform(name, centre, side, SIZES[kind], rng.uniform(-TURN[kind], TURN[kind]))


def transform(name: str, centre: np.ndarray, side: float, pixels: int, turn: float = 0.0) -> np.ndarray:
    """A square of the picture to `pixels`; the left hand is mirrored, so that one network serves both: (2, 3) float64."""
    cos, sin, mirror = np.cos(turn), np.sin(turn), -1.0 if name == "left_hand" else 1.0
    linear = pixels / side * np.array([[mirror * cos, -mirror * sin], [sin, cos]])
    return np.concatenate([linear, pixels / 2 - linear @ centre[:, None]], axis=1)


def cut(picture: np.ndarray, to_crop: np.ndarray, pixels: int) -> np.ndarray:
    """The crop (pixels, pixels, 3) uint8 of picture (H, W, 3), which is averaged down first where the crop is far smaller."""
    whole = int(1 / np.sqrt(abs(np.linalg.det(to_crop[:, :2]))) + 1e-6)
    if whole > 1:
        picture = np.asarray(Image.fromarray(picture).reduce(whole))
        to_crop = to_crop * [whole, whole, 1.0]
    return warp(picture, to_crop, pixels)


def moved(points: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Points (..., 2) under the transform `by` (2, 3)."""
    return np.asarray(points @ by[:, :2].T + by[:, 2], np.float32)


def back(points: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Points (..., 2) of a crop in picture pixels."""
    return moved(points, invert(by))


def mean_places(name: str, points: np.ndarray, size: int) -> np.ndarray:
    """Where landmarks would be found without looking: their mean place in the crops for judging, (N, K, 2) in and out."""
    ways = [view(name, p, size) for p in points]
    mean = np.mean([moved(p, way) for p, way in zip(points, ways, strict=True)], axis=0)
    return np.stack([back(mean, way) for way in ways])


def inside(points: np.ndarray, size: int) -> np.ndarray:
    """(..., 2) to (...) bool: which points lie in a picture of `size`."""
    return np.asarray(((points >= 0) & (points < size)).all(axis=-1))
