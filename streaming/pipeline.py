"""The live engine in threads: groups of stages side by side, with bounded newest-wins doors between them.

A slow stage makes gaps, never delay. A reset begins an epoch: frames of older ones die at the next door, and none
leaves after the new one began. A stage that raises loses that frame, is reset, and is counted. It knows stages, not
what they do.

    pipeline = Pipeline(engine, on_picture)
    pipeline.start()
    pipeline.submit(pose_frame)
    ...
    pipeline.stop()            # or, to lose no frame: pipeline.drain(on_end)
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import structlog

from engine.gear import OWN, Gear
from engine.picture import Picture
from engine.pose import PoseFrame
from engine.work import Stage, Work, advance, flush
from streaming.queues import CLOSED, STALE, Door

# A thread each. Networks that run side by side only slow each other: bench/NOTES.md has the figures.
GROUPS = (("body", "condition"), ("denoise", "decode", "hands", "face"))
CRASHED = "crashed"
EXIT = "exit"  # the last door, where pictures leave

_log = structlog.get_logger(__name__)


class Engine(Protocol):
    """What a pipeline needs of an engine."""

    @property
    def stages(self) -> Sequence[Stage]:
        """In the order of a frame's way."""
        ...

    @property
    def burst(self) -> int:
        """How many frames a stage may give at once."""
        ...


class Observer(Protocol):
    """Told in time what a replay needs, from the pipeline's threads; must be quick, and must not raise."""

    def took(self, group: int, work: Work) -> None:
        """The group of that number takes a frame; the one after the last group is the exit: its picture has left."""
        ...

    def crashed(self, group: int, work: Work) -> None:
        """The group lost the frame that it had taken, or held back, and is about to be reset."""
        ...

    def ended(self, group: int, epoch: int) -> None:
        """The group takes no more frames, and in `epoch` gives what it held back; the exit: all have left."""
        ...


class Unobserved:
    """Nobody is told."""

    def took(self, group: int, work: Work) -> None: ...

    def crashed(self, group: int, work: Work) -> None: ...

    def ended(self, group: int, epoch: int) -> None: ...


def grouped(engine: Engine, groups: Sequence[Sequence[str]] = GROUPS) -> list[list[Stage]]:
    """The engine's stages as they share threads. ValueError where `groups` do not hold all of them in order."""
    by_name = {stage.name: stage for stage in engine.stages}
    named = [[by_name[name] for name in group if name in by_name] for group in groups]
    chosen = [group for group in named if group]
    if [stage.name for group in chosen for stage in group] != list(by_name):
        raise ValueError(f"groups {groups} do not hold the stages {list(by_name)} in order")
    return chosen


class Pipeline:
    """Runs an engine's stages in threads. `submit` and `reset` may be called from any thread, also from `on_picture`.

    `on_picture` is called from the last thread, in order of capture, and must be quick. False: the picture goes no further,
    and whoever says so counts it.
    """

    def __init__(
        self,
        engine: Engine,
        on_picture: Callable[[Picture], bool | None],
        groups: Sequence[Sequence[str]] = GROUPS,
        clock: Callable[[], int] = time.perf_counter_ns,
        begin: tuple[int, int] = (0, 0),
        observer: Observer | None = None,
    ) -> None:
        """`groups`: names of stages that share a thread, in order; names that the engine does not have are left out.

        `begin`: epoch and index of the first frame, where this pipeline takes over from another.
        """
        self._on_picture = on_picture
        self._clock = clock
        self._exit = threading.RLock()  # held while a picture leaves, so that no reset comes in between
        self._epoch, self._index = begin
        self._on_end: Callable[[], None] = lambda: None
        self._submitted = self._finished = 0
        self._drops: Counter[tuple[str, str]] = Counter()
        self._restarts: Counter[str] = Counter()
        self._tally = threading.Lock()
        self._observer = observer or Unobserved()
        chosen = grouped(engine, groups)
        # Poses come one by one; further on a stage may give a burst, and must not push out its own frames.
        doors: list[Door[Work]] = [Door(max(2, engine.burst) if i else 1) for i in range(len(chosen))]
        numbered = zip(range(len(doors)), chosen, doors, [*doors[1:], None], strict=True)
        self._workers = [_Worker(self, *each) for each in numbered]

    @property
    def epoch(self) -> int:
        """Grows with every reset."""
        return self._epoch

    @property
    def position(self) -> tuple[int, int]:
        """Epoch and index of the next frame."""
        with self._exit:
            return self._epoch, self._index

    def start(self) -> None:
        """Start the threads."""
        for worker in self._workers:
            worker.start()

    def submit(self, frame: PoseFrame, gear: Gear = OWN) -> None:
        """Take the next pose, to be painted in `gear`. Never waits: where the engine is behind, the oldest frame that waits is dropped."""
        with self._exit:
            work = Work(self._index, self._epoch, frame, gear)
            self._index += 1
            self._submitted += 1
        self._workers[0].door.put(work, work.epoch)

    def reset(self) -> int:
        """Begin a new epoch and return it. After this, no picture of an older one leaves."""
        with self._exit:
            self._epoch += 1
            self._index = 0
            epoch = self._epoch
        for worker in self._workers:
            worker.door.begin(epoch)
        return epoch

    def drain(self, on_end: Callable[[], None]) -> None:
        """Take no more poses. Every frame that is under way or held back becomes a picture, then the threads end.

        Nothing is overtaken any more. The last thread calls `on_end` after the last picture, unless `stop` is called first.
        """
        self._on_end = on_end
        for worker in self._workers[1:]:
            worker.door.keep()
        self._workers[0].door.end()

    def stop(self, timeout: float = 2.0) -> bool:
        """Close the doors and wait for the threads, at most `timeout` seconds in all; whether all have ended."""
        for worker in self._workers:
            worker.door.close()
        deadline = time.monotonic() + timeout
        for worker in self._workers:
            if worker.thread.is_alive():
                worker.thread.join(max(0.0, deadline - time.monotonic()))
        return not any(worker.thread.is_alive() for worker in self._workers)

    @property
    def submitted(self) -> int:
        """Poses taken since the start."""
        return self._submitted

    @property
    def finished(self) -> int:
        """Pictures that left since the start."""
        return self._finished

    def drops(self) -> dict[str, int]:
        """Frames that never became a picture, by "stage: reason". The stage is the first of its thread."""
        with self._tally:
            drops = Counter(self._drops)
        for worker in self._workers:
            drops.update({(worker.name, reason): count for reason, count in worker.door.drops().items()})
        return {f"{stage}: {reason}": count for (stage, reason), count in sorted(drops.items()) if count}

    def restarts(self) -> dict[str, int]:
        """How often stages crashed and began anew, by the first stage of the thread."""
        with self._tally:
            return dict(self._restarts)

    def _end(self) -> None:
        self._observer.ended(len(self._workers), self._epoch)
        self._on_end()

    def _drop(self, stage: str, reason: str, count: int = 1) -> None:
        with self._tally:
            self._drops[stage, reason] += count

    def _crashed(self, stage: str, work: Work) -> None:
        self._drop(stage, CRASHED)
        with self._tally:
            self._restarts[stage] += 1
            count = self._restarts[stage]
        if count & (count - 1) == 0:  # the 1st, 2nd, 4th, ...: a stage that always crashes does not flood the log
            _log.exception(
                "stage crashed",
                stage=stage,
                crashes=count,
                frame=work.index,
                epoch=work.epoch,
            )

    def _leave(self, work: Work) -> None:
        with self._exit:
            if work.epoch < self._epoch:
                self._drop(EXIT, STALE)
                return
            try:
                left = self._on_picture(work.picture()) is not False
            except Exception:  # whatever a viewer's code raises, the show goes on
                self._crashed(EXIT, work)
                return
            if left:
                self._finished += 1
                self._observer.took(len(self._workers), work)


class _Worker:
    """A thread that takes frames from its door through its stages to the next door."""

    def __init__(
        self,
        pipeline: Pipeline,
        number: int,
        stages: Sequence[Stage],
        door: Door[Work],
        following: Door[Work] | None,
    ) -> None:
        self.name = stages[0].name
        self.door = door
        self.thread = threading.Thread(target=self._run, name=f"liveanchor-{self.name}", daemon=True)
        self._pipeline, self._number, self._stages, self._following = pipeline, number, stages, following
        self._epoch = pipeline.epoch

    def start(self) -> None:
        self.thread.start()

    def _run(self) -> None:
        seen = partial(self._pipeline._observer.took, self._number)
        while (work := self.door.take(seen=seen)) is not None:
            self._renew(work.epoch)
            self._paint(self._stages, work)
        if self.door.closed:
            self._reset(CLOSED)
        else:
            self._end()

    def _paint(self, stages: Sequence[Stage], work: Work) -> None:
        try:
            works = advance(stages, [work], self._pipeline._clock)
        except Exception:  # whatever a stage raises, the show goes on
            self._pipeline._crashed(self.name, work)
            self._pipeline._observer.crashed(self._number, work)
            self._reset(CRASHED)
            return
        for done in works:
            if self._following is None:
                self._pipeline._leave(done)
            else:
                self._following.put(done, done.epoch)

    def _end(self) -> None:
        """After the last frame: what stages hold back goes on its way, then the next thread ends."""
        self._renew(self._pipeline.epoch)
        self._pipeline._observer.ended(self._number, self._epoch)
        for i, stage in enumerate(self._stages):
            try:
                held_back = flush([stage], self._pipeline._clock)
            except Exception:  # the other stages' frames are still to be painted
                _log.exception("stage cannot be flushed", stage=stage.name)
                continue
            for work in held_back:
                self._paint(self._stages[i + 1 :], work)
        self._reset(CRASHED)  # a stage that could not be flushed still has its frames
        self._stages = ()  # an engine is large: it does not wait for the garbage collector
        if self._following is None:
            self._pipeline._end()
        else:
            self._following.end()

    def _renew(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch = epoch
            self._reset(STALE)

    def _reset(self, reason: str) -> None:
        """Every stage begins anew, also where another one cannot."""
        for stage in self._stages:
            try:
                held_back = stage.reset()
            except Exception:  # the others are still to be reset
                _log.exception("stage cannot be reset", stage=stage.name)
            else:
                self._pipeline._drop(self.name, reason, held_back)
