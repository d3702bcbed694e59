"""Writes a pose log while a show runs, beside it: frames never wait for the disc.

Events go into a bounded backlog, which a thread writes out a few times a second. What finds it full is counted, and the
log says that it has a hole there. Where the disc is full, or another avatar takes over, recording ends and the show goes on.

    recorder = Recorder(folder)
    recorder.start(engine.described(groups))
    pipeline = Pipeline(engine, on_picture, observer=recorder)
    ...
    recorder.stop()
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from engine.errors import InputError
from engine.gear import Gear
from engine.pose_log import EVENTS_FILE, MAGIC, Event, Kind, LogFields, encode, is_log
from engine.work import Work

BACKLOG = 4096  # events, some 4 MB: half a minute at 50 pictures a second
PERIOD_S = 0.1  # a kill loses so much

_log = structlog.get_logger(__name__)


class Output(Protocol):
    """An unbuffered binary file."""

    def write(self, data: memoryview, /) -> int | None: ...

    def close(self) -> None: ...


@dataclass
class Backlog:
    """Events that wait to be written, at most `capacity` and a note of each hole among them. No threads, no time."""

    capacity: int = BACKLOG
    lost: int = 0  # in all
    _items: deque[Event] = field(default_factory=deque, init=False, repr=False)
    _hole: int = field(default=0, init=False)  # events lost since the last that was kept

    def put(self, event: Event) -> None:
        """Keep it, or lose and count it."""
        if len(self._items) >= self.capacity:
            self.lose()
            return
        self._note()
        self._items.append(event)

    def lose(self) -> None:
        """Count one that cannot be kept."""
        self._hole += 1
        self.lost += 1

    def take(self) -> list[Event]:
        """Everything that waits, in order; a hole stands where it is."""
        self._note()
        events = list(self._items)
        self._items.clear()
        return events

    def _note(self) -> None:
        if self._hole:
            self._items.append(Event(Kind.HOLE, index=self._hole))
            self._hole = 0


@dataclass(frozen=True)
class Recording:
    """How it goes. Counters grow from its start. It ends with `trouble`, in a line, or in order, `swapped`."""

    written: int = 0
    lost: int = 0
    trouble: str = ""
    swapped: bool = False  # another avatar has taken over, which is not recorded


class Recorder:
    """A `streaming.pipeline.Observer` that writes what it is told to `folder`."""

    def __init__(
        self,
        folder: Path,
        backlog: Backlog | None = None,
        opener: Callable[[Path], Output] = lambda file: file.open("xb", buffering=0),
    ) -> None:
        self._folder, self._opener = folder, opener
        self._backlog = backlog or Backlog()
        self._lock = threading.Lock()
        self._written, self._lost, self._trouble = 0, 0, ""  # lost: what trouble left unwritten
        self._gears: dict[Gear, int] = {}
        self._exit = 0  # the number of the exit
        self._swapped = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, fields: LogFields) -> None:
        """Begin to write; `fields` say what paints. A frame in a gear that they do not list makes a hole."""
        self._gears = {gear: number for number, gear in enumerate(fields.prepared(str(self._folder)))}
        self._exit = len(fields.groups)
        self._thread = threading.Thread(target=self._run, args=(fields,), name="liveanchor-pose-log", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> bool:
        """Write what still waits; whether that was done in `timeout` seconds."""
        self._stopping.set()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def took(self, group: int, work: Work) -> None:
        """A group of stages takes a frame, or its picture leaves."""
        if group:
            self._put(Event(Kind.TAKEN, group, work.epoch, work.index))
        elif (gear := self._gears.get(work.gear)) is not None:
            self._put(Event(Kind.POSE, 0, work.epoch, work.index, gear, work.frame))
        else:
            with self._lock:
                self._backlog.lose()

    def crashed(self, group: int, work: Work) -> None:
        """A group lost its frame and is reset."""
        self._put(Event(Kind.CRASHED, group, work.epoch, work.index))

    def ended(self, group: int, epoch: int) -> None:
        """Another avatar takes over, and a group has taken its last frame. The log ends with the last picture."""
        self._put(Event(Kind.SWAPPED, group, epoch))
        if group == self._exit:
            self._swapped = True
            self._stopping.set()

    def state(self) -> Recording:
        """How it goes."""
        with self._lock:
            return Recording(self._written, self._backlog.lost + self._lost, self._trouble, self._swapped)

    def _put(self, event: Event) -> None:
        with self._lock:
            if self._trouble:
                self._lost += 1
            else:
                self._backlog.put(event)

    def _run(self, fields: LogFields) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            output = self._opener(self._folder / EVENTS_FILE)
        except OSError as error:
            self._end(error, [])
            return
        unwritten: list[Event] = []
        try:
            _write(output, MAGIC)
            fields.write(self._folder)
            last = False
            while not last:
                last = self._stopping.wait(PERIOD_S)
                with self._lock:
                    unwritten = self._backlog.take()
                _write(output, b"".join(map(encode, unwritten)))
                with self._lock:
                    self._written += len(unwritten)
            if self._swapped:
                _log.info("recording ended, another avatar took over", folder=str(self._folder))
        except OSError as error:
            self._end(error, unwritten)
        finally:
            output.close()

    def _end(self, error: OSError, unwritten: list[Event]) -> None:
        with self._lock:
            self._trouble = error.strerror or str(error)
            self._lost += sum(event.kind is not Kind.HOLE for event in (*unwritten, *self._backlog.take()))
        _log.warning("recording ended, the show goes on", folder=str(self._folder), reason=self._trouble)


def check_place(folder: Path) -> None:
    """InputError where no log can begin in `folder`, which is made if it is missing; a log is never written over."""
    if is_log(folder) or (folder / EVENTS_FILE).exists():
        raise InputError(str(folder), "folder", "one without a pose log", "one with a pose log")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(str(folder), "folder", "a folder to write to", error.strerror or str(error)) from None


def _write(output: Output, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        written = output.write(rest)
        if not written:
            raise OSError("the file takes nothing more")
        rest = rest[written:]
