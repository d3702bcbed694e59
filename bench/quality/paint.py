"""Parts painted through the shipped engine: once up to the decoder, then with each choice of the passes that paint again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.quality.parts import Part
from engine.avatar import Avatar, Mode
from engine.live import LiveEngine
from engine.pose import PoseFrame
from engine.work import Work, advance, flush
from export.live import open_live

AGAIN = ("hands", "face")  # stages that paint a part again
Step = Callable[[], None]  # called for every picture that is done


@dataclass(frozen=True)
class Painter:
    """An avatar ready to paint held-out poses, whose root is where the studio put it."""

    folder: Path
    engine: LiveEngine
    seed: int

    @classmethod
    def load(
        cls, folder: Path, context: int | None = None, mode: Mode | None = None, window: int | None = None,
        overlap: int | None = None, *, seed: int = 0,
        runtime: str = "auto", precision: str = "auto", threads: int | None = None,
    ) -> Painter:  # fmt: skip
        """`context`, `mode`, `window` and `overlap` as LiveEngine's. InputError where the folder holds no exported avatar, or none for these."""
        avatar = Avatar.load(folder)
        avatar = replace(avatar, root=replace(avatar.root, policy="free"))
        engine = open_live(
            avatar, runtime, precision, threads, context=context, mode=mode, window=window, overlap=overlap, seed=seed
        )
        engine.warm_up()
        return cls(folder, engine, seed)

    @property
    def alone(self) -> bool:
        """Whether each frame is painted without the others."""
        fields = self.engine.avatar.denoise
        return fields.mode == "causal" and fields.context == 0

    @property
    def again(self) -> tuple[str, ...]:
        """Which of the passes that paint again the avatar has."""
        return tuple(stage.name for stage in self.engine.stages if stage.name in AGAIN)

    def paint(self, part: Part, looks: Mapping[str, frozenset[str]], step: Step) -> dict[str, np.ndarray]:
        """Pictures (N, S, S, 3) by look; a look says which passes are left out."""
        first = [stage for stage in self.engine.stages if stage.name not in AGAIN]
        finished: list[Work] = []
        for run in part.runs():
            self.engine.reset()
            for work in works(part, run, self.engine.epoch):
                finished += advance(first, [work], time.perf_counter_ns)
                step()
            finished += flush(first, time.perf_counter_ns)
        return {name: self.finish(finished, without) for name, without in looks.items()}

    def finish(self, decoded: list[Work], without: frozenset[str] = frozenset()) -> np.ndarray:
        """Decoded works through the passes that paint again; the works keep their pictures and crops: (N, S, S, 3)."""
        late = [stage for stage in self.engine.stages if stage.name in AGAIN and stage.name not in without]
        copies = [replace(w, image=copied(w.image), crops=dict(w.crops), stage_ns={}) for w in decoded]
        return np.stack([copied(work.image) for work in advance(late, copies, time.perf_counter_ns)])

    def still(self, frame: PoseFrame, count: int) -> np.ndarray:
        """The same pose `count` times in a row: (count, S, S, 3)."""
        self.engine.reset()
        gap = round(1e9 / self.engine.fps)
        pictures = [p.image for i in range(count) for p in self.engine.feed(replace(frame, time_ns=i * gap))]
        return np.stack(pictures + [p.image for p in self.engine.flush()])


def works(part: Part, run: np.ndarray, epoch: int) -> list[Work]:
    """A run of the part's poses, as the engine takes them."""
    frames = (part.motion.frame(int(part.indices[at])) for at in run)
    return [Work(i, epoch, frame) for i, frame in enumerate(frames)]


def copied(image: np.ndarray | None) -> np.ndarray:
    """A stage's picture, of its own memory."""
    assert image is not None
    return image.copy()
