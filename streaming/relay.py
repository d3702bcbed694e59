"""A pipeline whose engine can be replaced while it runs: the old one paints every frame until the new one takes over.

    relay = Relay(engine, on_picture)
    relay.start()
    relay.submit(pose_frame)
    relay.swap(another)        # warmed up; the next frame is its first
    ...
    relay.stop()

Both run side by side for as long as the old one's last frames take. `streaming.succession` has the order.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from engine.gear import OWN, Gear
from engine.picture import Picture
from engine.pose import PoseFrame
from streaming.pipeline import CRASHED, EXIT, Engine, Observer, Pipeline
from streaming.succession import Succession

SWAP = "swap"  # where frames end that a swap or a reset during one takes out

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Line:
    """An engine's pipeline and its number in the succession."""

    number: int
    pipeline: Pipeline
    ended: threading.Event = field(default_factory=threading.Event)  # its last picture has left it


class Relay:
    """One thread or loop calls it; pictures leave in order from threads of its own, through `on_picture`.

    `on_picture` must be quick, and must not call the relay.
    """

    def __init__(self, engine: Engine, on_picture: Callable[[Picture], None], observer: Observer | None = None) -> None:
        """`observer` is told of this engine's frames; those that take over from it are not observed."""
        self._on_picture = on_picture
        self._order = threading.Lock()  # held while pictures leave; taken within a pipeline's own, never around it
        self._succession = Succession()
        self._submitted = self._finished = 0
        self._retired: Counter[str] = Counter()  # drops of those that have ended
        self._line = self._new_line(0, engine, (0, 0), observer)
        self._old: _Line | None = None  # from which it takes over
        self._lines = [self._line]  # those that have not ended

    @property
    def swapping(self) -> bool:
        """Whether the engine before the last still has frames that are to leave first."""
        return self._succession.turn < self._line.number

    def start(self) -> None:
        """Start the threads."""
        self._line.pipeline.start()

    def submit(self, frame: PoseFrame, gear: Gear = OWN) -> None:
        """Take the next pose, as `Pipeline.submit`."""
        self._submitted += 1
        self._line.pipeline.submit(frame, gear)

    def swap(self, engine: Engine) -> tuple[int, int]:
        """Have `engine` paint the next frame and all after it. Frames that the old one has begun leave before them.

        Returns epoch and index of the next frame, as its picture will bear them, unless an epoch begins before it.
        RuntimeError while the last swap goes on.
        """
        if self.swapping:
            raise RuntimeError("a swap is going on")
        old = self._line
        first = old.pipeline.position
        new = self._new_line(old.number + 1, engine, first)
        new.pipeline.start()
        with self._order:
            self._lines.append(new)
        self._old, self._line = old, new
        old.pipeline.drain(partial(self._retire, old))
        return first

    def wait(self, seconds: float) -> bool:
        """Wait for the old engine's last frame; one that takes longer than `seconds` is cut off. Whether it came.

        What a cut-off engine still paints is dropped and counted.
        """
        old = self._old
        if old is None or old.ended.wait(seconds):
            return True
        with self._order:
            self._give(self._succession.end(old.number))
        return False

    def reset(self) -> int:
        """Begin a new epoch and return it. After this, no picture of an older one leaves, whoever painted it."""
        epoch = self._line.pipeline.epoch + 1
        with self._order:
            self._succession.begin(epoch)
            lines = list(self._lines)
        for line in lines:
            line.pipeline.reset()
        return epoch

    def stop(self, timeout: float = 2.0) -> bool:
        """End all threads, waiting at most `timeout` seconds in all; whether all have ended."""
        deadline = time.monotonic() + timeout
        with self._order:
            lines = list(self._lines)
        stopped = True
        for line in lines:
            stopped &= line.pipeline.stop(max(0.0, deadline - time.monotonic()))
            line.ended.set()  # nobody is to wait for it any more
        return stopped

    @property
    def submitted(self) -> int:
        """Poses taken since the start."""
        return self._submitted

    @property
    def finished(self) -> int:
        """Pictures that left since the start."""
        return self._finished

    @property
    def held(self) -> int:
        """Pictures of the new engine that wait for the old one's last."""
        return self._succession.held

    def drops(self) -> dict[str, int]:
        """Frames that never became a picture, by "stage: reason", of all engines together."""
        with self._order:
            drops = Counter(self._retired)
            for line in self._lines:
                drops.update(line.pipeline.drops())
            drops.update({f"{SWAP}: {reason}": count for reason, count in self._succession.drops.items()})
        return {reason: count for reason, count in sorted(drops.items()) if count}

    def _new_line(self, number: int, engine: Engine, begin: tuple[int, int], observer: Observer | None = None) -> _Line:
        return _Line(number, Pipeline(engine, partial(self._take, number), begin=begin, observer=observer))

    def _take(self, number: int, picture: Picture) -> bool:
        """Whether `picture` leaves now; it may have to wait, or be the one that is cut off."""
        with self._order:
            left = self._give(self._succession.take(number, picture))
            return any(each is picture for each in left)

    def _retire(self, line: _Line) -> None:
        """The last frame of `line` has left it: called in its last thread."""
        with self._order:
            self._lines.remove(line)
            if self._old is line:
                self._old = None
            self._retired.update(line.pipeline.drops())
            self._give(self._succession.end(line.number))
        line.ended.set()

    def _give(self, pictures: list[Picture]) -> list[Picture]:
        """Those that left."""
        left = []
        for picture in pictures:
            try:
                self._on_picture(picture)
            except Exception:  # whatever a viewer's code raises, the show goes on
                self._retired[f"{EXIT}: {CRASHED}"] += 1
                _log.exception("a picture could not leave", frame=picture.index, epoch=picture.epoch)
            else:
                left.append(picture)
                self._finished += 1
        return left
