"""The noise that a frame starts from: a function of seed, frame index and step, so a pose log replays exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from engine.arrays import HOST, Array, Home

MAX_STEPS = 256


@dataclass
class Noise:
    """Standard normal noise, (channels, height, width) float32.

    `per-frame`: every index draws its own. `shared`: one draw for all frames, as Make-Your-Anchor does. It is drawn here, and
    lies at `home`.
    """

    shape: tuple[int, ...]
    seed: int = 0
    kind: Literal["shared", "per-frame"] = "shared"
    home: Home = HOST
    _shared: dict[int, Array] = field(default_factory=dict, init=False, repr=False)

    def at(self, index: int, step: int = 0) -> Array:
        """The noise of frame `index` at `step` (0: where it starts; later ones re-noise). Read-only."""
        if not 0 <= step < MAX_STEPS:
            raise ValueError(f"step must lie in 0 to {MAX_STEPS - 1}, got {step}")
        if self.kind == "per-frame":
            return self.home.put(draw(self.shape, self.seed, index, step))
        if step not in self._shared:
            self._shared[step] = self.home.put(draw(self.shape, self.seed, 0, step))
        return self._shared[step]


def draw(shape: tuple[int, ...], seed: int, index: int, step: int = 0) -> np.ndarray:
    """Standard normal float32 noise of `shape` from a counter-based generator keyed by all three numbers."""
    key = np.array([seed % 2**64, (index * MAX_STEPS + step) % 2**64], np.uint64)
    noise = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, np.float32)
    noise.flags.writeable = False
    return noise
