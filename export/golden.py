"""A few numbers that a graph must give for inputs that can be made anywhere: enough to tell that an engine holds the right weights.

They are computed by torch when an avatar is exported, and lie in the list of its graphs. Checking them needs no torch: an engine
whose weights were exchanged is asked before it paints. Not a proof of precision: export.verify compares everything.

All frames or crops of a call are alike, and a frame beside copies of itself is painted as it is alone: so they hold for any number.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.network import Network

POINTS = 12  # of each output
BYTES, FLOATS = "bytes", "floats"
# A few points may be further away than all of them together (export.verify.TOLERANCE), and one level of a picture is 0.003; other
# weights give other numbers altogether: 0.2 away in pictures, about 1 elsewhere.
ALLOWED = {"f32": 5e-3, "bf16": 6e-2, "f16": 6e-2}


@dataclass(frozen=True)
class Golden:
    """What a graph gives. `inputs`: what each one is filled with, a kind or a whole number."""

    inputs: dict[str, str | int]
    outputs: dict[str, tuple[float, ...]]  # values at even distances, of the first frame or crop

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> Golden:
        """Of plain values. KeyError, TypeError, ValueError where they are others."""
        outputs = {str(name): tuple(float(v) for v in values) for name, values in table["outputs"].items()}
        return cls(dict(table["inputs"]), outputs)

    @classmethod
    def of(
        cls,
        like: Mapping[str, np.ndarray],
        run: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]],
    ) -> Golden:
        """Of a graph that `run` computes, its inputs shaped `like` these. Inputs of whole numbers are kept as they are."""
        kinds = {name: _kind(array) for name, array in like.items()}
        said = run(filled(kinds, {name: array.shape for name, array in like.items()}))
        return cls(kinds, {name: points(array) for name, array in said.items()})

    def error(self, network: Network) -> float:
        """The largest difference of an output's points, relative to their norm. `network` takes all inputs, none is `fixed`."""
        said = network(**filled(self.inputs, network.inputs))
        return max(_relative(points(network.home.host(said[name])), wanted) for name, wanted in self.outputs.items())


def confirm(golden: Golden, network: Network, precision: str, where: str) -> None:
    """InputError unless a network that is told everything, nothing `fixed`, gives what the exported one gives, as far as `precision` can."""
    error = golden.error(network)
    if not error <= ALLOWED[precision]:
        got = f"{error:.2g} of their norm away, where {precision} may be {ALLOWED[precision]:g}"
        raise InputError(where, "goldens", "the numbers of the exported graph", got, "run the export again")


def filled(kinds: Mapping[str, str | int], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Arrays of these shapes by name, the same everywhere."""
    return {name: _filled(name, kind, shapes[name]) for name, kind in kinds.items()}


def points(array: np.ndarray) -> tuple[float, ...]:
    """Values of an array's first row at even distances, the first and the last among them."""
    flat = np.asarray(array)[0].reshape(-1)
    at = np.linspace(0, flat.size - 1, min(POINTS, flat.size)).round().astype(np.int64)
    return tuple(round(float(v), 6) for v in flat[at])


def _kind(array: np.ndarray) -> str | int:
    if array.dtype == np.uint8:
        return BYTES
    return FLOATS if array.dtype == np.float32 else int(array.reshape(-1)[0])


def _filled(name: str, kind: str | int, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(kind, int):
        return np.full(shape, kind, np.int64)
    rng, row = np.random.default_rng(zlib.crc32(name.encode())), shape[1:]
    one = rng.integers(0, 256, row, np.uint8) if kind == BYTES else rng.standard_normal(row, np.float32)
    return np.broadcast_to(one, shape).copy()


def _relative(got: tuple[float, ...], wanted: tuple[float, ...]) -> float:
    a, b = np.array(got), np.array(wanted)
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12))
