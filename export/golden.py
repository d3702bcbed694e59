"""A few numbers that a graph must give for inputs that can be made anywhere: enough to tell that an engine holds the right weights.

They are computed by torch when an avatar is exported, and lie in the list of its graphs. Checking them needs no torch: an engine
whose weights were exchanged is asked before it paints. Not a proof of precision: export.verify compares everything.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

POINTS = 12  # of each output
BYTES, FLOATS = "bytes", "floats"


@dataclass(frozen=True)
class Golden:
    """What a graph gives for so many frames or crops. `inputs`: what each one is filled with, a kind or a whole number."""

    batch: int
    inputs: dict[str, str | int]
    outputs: dict[str, tuple[float, ...]]  # values at even distances

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Golden:
        """Of plain values. KeyError, TypeError, ValueError where they are others."""
        outputs = {str(name): tuple(float(v) for v in values) for name, values in table["outputs"].items()}
        return cls(int(table["batch"]), dict(table["inputs"]), outputs)

    @classmethod
    def of(
        cls,
        batch: int,
        like: Mapping[str, np.ndarray],
        run: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]],
    ) -> Golden:
        """Of a graph that `run` computes, its inputs shaped `like` these. Inputs of whole numbers are kept as they are."""
        kinds = {name: _kind(array) for name, array in like.items()}
        said = run(filled(kinds, {name: array.shape for name, array in like.items()}))
        return cls(batch, kinds, {name: points(array) for name, array in said.items()})

    def error(self, network: Callable[..., Mapping[str, np.ndarray]], shapes: Mapping[str, tuple[int, ...]]) -> float:
        """The largest difference of an output's points, relative to their norm. `shapes`: of all inputs of `network`."""
        said = network(**filled(self.inputs, shapes))
        return max(_relative(points(said[name]), wanted) for name, wanted in self.outputs.items())


def filled(kinds: Mapping[str, str | int], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Arrays of these shapes by name, the same everywhere."""
    return {name: _filled(name, kind, shapes[name]) for name, kind in kinds.items()}


def points(array: np.ndarray) -> tuple[float, ...]:
    """Values of an array at even distances, the first and the last among them."""
    flat = np.asarray(array).reshape(-1)
    at = np.linspace(0, flat.size - 1, min(POINTS, flat.size)).round().astype(np.int64)
    return tuple(round(float(v), 6) for v in flat[at])


def _kind(array: np.ndarray) -> str | int:
    if array.dtype == np.uint8:
        return BYTES
    return FLOATS if array.dtype == np.float32 else int(array.reshape(-1)[0])


def _filled(name: str, kind: str | int, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(kind, int):
        return np.full(shape, kind, np.int64)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if kind == BYTES:
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, np.float32)


def _relative(got: tuple[float, ...], wanted: tuple[float, ...]) -> float:
    a, b = np.array(got), np.array(wanted)
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12))
