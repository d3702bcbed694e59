"""One frame on its way through the stages, and what a stage is. Neither knows who runs it, or in which thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from engine.arrays import Array
from engine.gear import OWN, Gear
from engine.picture import Picture
from engine.pose import PoseFrame


@dataclass(slots=True)
class Work:
    """A frame and what the stages have made of it so far. Its arrays are its own: no stage writes to them again."""

    index: int  # count of frames since the epoch began
    epoch: int
    frame: PoseFrame
    gear: Gear = OWN  # that it is to be painted in
    vertices: np.ndarray | None = None  # (V, 3) float32, metres
    joints: np.ndarray | None = None  # (55, 3) float32, metres
    condition: np.ndarray | None = None  # (h, w, 3) uint8
    arrays: dict[str, Array] = field(default_factory=dict)  # what networks said, at their home, by outputs' names
    crops: dict[str, Crops] = field(default_factory=dict)  # what is painted again, by the stage's name
    image: np.ndarray | None = None  # (H, W, 3) uint8
    stage_ns: dict[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()  # stages that left it out, as its gear says

    def picture(self) -> Picture:
        """The finished frame. ValueError while it is not."""
        if self.image is None or self.condition is None:
            raise ValueError(f"frame {self.index} has not been through all stages")
        made = self.image, self.condition, self.stage_ns, self.gear, self.skipped
        return Picture(self.index, self.epoch, self.frame.time_ns, *made)


@dataclass(frozen=True, slots=True)
class Crops:
    """Where what is painted again is, and the mesh there: one crop of the face, or two of the hands."""

    transforms: np.ndarray  # (n, 2, 3) float32, condition pixels to crop pixels
    conditions: np.ndarray  # (n, size, size, 3) uint8
    masks: np.ndarray  # (n, size, size) uint8, above 127 where it is redrawn


class Stage(Protocol):
    """A step of the way. One caller at a time; it may hold frames back and give several at once, in order."""

    name: str

    def __call__(self, work: Work) -> list[Work]: ...

    def flush(self) -> list[Work]:
        """The stream ends: what it holds back."""
        ...

    def reset(self) -> int:
        """The next frame begins a new stream. Returns how many frames it held back, which are dropped."""
        ...


def advance(stages: Iterable[Stage], works: list[Work], clock: Callable[[], int]) -> list[Work]:
    """Take `works` through `stages`, noting the time that each frame cost; `clock` in nanoseconds."""
    for stage in stages:
        works = [done for work in works for done in _timed(stage.name, partial(stage, work), clock)]
    return works


def held_back(stages: Sequence[Stage]) -> Iterator[tuple[Work, Sequence[Stage]]]:
    """The stream ends: each frame that one of `stages` holds back, and the stages that are still before it, in order."""
    for i, stage in enumerate(stages):
        for work in stage.flush():
            yield work, stages[i + 1 :]


def flush(stages: Sequence[Stage], clock: Callable[[], int]) -> list[Work]:
    """Everything that `stages` hold back, taken through the rest of them, in order."""
    finished: list[Work] = []
    for i, stage in enumerate(stages):
        for work in _timed(stage.name, stage.flush, clock):  # one by one, as what is between two stages is large
            finished += advance(stages[i + 1 :], [work], clock)
    return finished


def _timed(name: str, run: Callable[[], list[Work]], clock: Callable[[], int]) -> list[Work]:
    """What `run` gives, each frame with its share of the time that it took."""
    start = clock()
    works = run()
    spent = clock() - start
    for work in works:
        work.stage_ns[name] = spent // len(works)
    return works
