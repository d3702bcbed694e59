"""Fakes of neighbours: stages that only take time, and networks that are a table of shapes and a formula."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.arrays import HOST, Array, Home
from engine.pose import PoseFrame
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from engine.work import Work


def pose_frame(time_ns: int, seed: int = 0) -> PoseFrame:
    """A plausible pose that differs with `seed`."""
    rng = np.random.default_rng(seed)
    pose = rng.normal(0.0, 0.1, POSE_DIMS).astype(np.float32)
    expression = rng.normal(0.0, 1.0, EXPRESSION_DIMS).astype(np.float32)
    return PoseFrame(time_ns, pose, expression, np.zeros(3, np.float32))


@dataclass
class FakeNetwork:
    """A `Network` whose outputs `formula` computes; like a real one it overwrites them at the next call."""

    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    formula: Callable[[Mapping[str, Any]], Mapping[str, Array]]
    calls: int = 0
    home: Home = HOST
    fixed: Mapping[str, np.ndarray] = field(default_factory=dict)
    _memory: dict[str, Array] = field(default_factory=dict)

    def __call__(self, **inputs: Array) -> Mapping[str, Array]:
        assert {name: array.shape for name, array in inputs.items()} == dict(self.inputs)
        self.calls += 1
        said = self.formula(inputs)
        assert {name: array.shape for name, array in said.items()} == dict(self.outputs)
        for name, array in said.items():
            if name not in self._memory:
                self._memory[name] = self.home.empty(array.shape, array.dtype)
            self.home.put(array, self._memory[name])
        return self._memory


@dataclass
class FakeStage:
    """Takes `seconds` a frame, gives `burst` frames at once, raises on the frames in `crashes`."""

    name: str
    seconds: float = 0.0
    burst: int = 1
    crashes: Callable[[Work], bool] = lambda work: False
    resets: int = 0
    seen: list[tuple[int, int]] = field(default_factory=list)  # (epoch, index)
    _held: list[Work] = field(default_factory=list)

    def __call__(self, work: Work) -> list[Work]:
        if self.seconds:
            time.sleep(self.seconds)
        self.seen.append((work.epoch, work.index))
        if self.crashes(work):
            raise RuntimeError(f"{self.name} fell over frame {work.index}")
        if work.image is None:
            work.image = work.condition = np.zeros((1, 1, 3), np.uint8)
        self._held.append(work)
        return self.flush() if len(self._held) == self.burst else []

    def flush(self) -> list[Work]:
        held, self._held = self._held, []
        return held

    def reset(self) -> int:
        self.resets += 1
        return len(self.flush())


@dataclass
class FakeEngine:
    """An engine of fake stages."""

    stages: list[FakeStage]

    @property
    def burst(self) -> int:
        return max(stage.burst for stage in self.stages)


def fake_engine(body: float = 0.0, denoise: float = 0.0, decode: float = 0.0, burst: int = 1) -> FakeEngine:
    """Three stages that take the given seconds a frame."""
    return FakeEngine(
        [
            FakeStage("body", body),
            FakeStage("denoise", denoise, burst),
            FakeStage("decode", decode),
        ]
    )
