"""A pose log through the stages once more: each group takes the frames that it took live, and begins anew where it did.

What an engine holds (the root's place, noise by position, a ring or a bank) depends on which frames went through which
stage, so a frame that was lost further on still goes as far as it came. It knows neither files nor threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from engine.errors import InputError
from engine.gear import Gear
from engine.picture import Picture
from engine.pose_log import Event, Kind
from engine.work import Stage, Work, advance, held_back


def replay(
    events: Iterable[Event],
    groups: Sequence[Sequence[Stage]],
    gears: Sequence[Gear],
    burst: int,
    clock: Callable[[], int],
    where: str,
) -> Iterator[Picture]:
    """The pictures that left live, in that order. `groups`: the stages, new or reset, as they shared threads.

    `gears` by the numbers in the log. `burst`: how many frames a stage may give at once. `where` names the log in errors:
    InputError at a hole, at a gear that there is not, and at events that cannot have happened.
    """
    lanes = _Lanes([_Lane(stages) for stages in (*groups, ())], gears, burst, clock)
    for number, event in enumerate(events):
        try:
            picture = lanes.happen(event)
        except _ImpossibleError as error:
            raise InputError(where, f"record {number}", error.expected, error.got) from None
        if picture is not None:
            yield picture
        if event.kind is Kind.SWAPPED and event.group == len(groups):
            return


class _ImpossibleError(Exception):
    def __init__(self, expected: str, got: str) -> None:
        self.expected, self.got = expected, got


class _Lane:
    """A group of stages and the frames before its door; the last one has no stages and is the exit."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = stages
        self.waiting: deque[Work] = deque()
        # What is to be painted, once it is known that it did not crash the group, and the stages before it: the frame
        # that was taken, and after the last one what is held back.
        self.due: Iterator[tuple[Work, Sequence[Stage]]] = iter(())
        self.ended = False
        self.epoch = 0

    def renew(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch = epoch
            self.reset()

    def reset(self) -> None:
        for stage in self.stages:
            stage.reset()


@dataclass
class _Lanes:
    lanes: list[_Lane]
    gears: Sequence[Gear]
    burst: int
    clock: Callable[[], int]

    def happen(self, event: Event) -> Picture | None:
        """Do what happened; the picture that left with it."""
        if event.kind is Kind.HOLE:
            raise _ImpossibleError("a log without holes", f"a hole: {event.index} records could not be written")
        last = len(self.lanes) - 1
        groups = {
            Kind.POSE: range(1), Kind.TAKEN: range(1, last + 1), Kind.CRASHED: range(last), Kind.SWAPPED: range(last + 1),
        }[event.kind]  # fmt: skip
        if event.group not in groups:
            raise _ImpossibleError(f"group {groups.start} to {groups.stop - 1}", str(event.group))
        gears = len(self.gears) if event.kind is Kind.POSE else 1
        if event.gear >= gears:
            raise _ImpossibleError(f"a gear below {gears}", str(event.gear))
        if event.kind is Kind.CRASHED:
            self._crash(event)
        elif event.kind is Kind.SWAPPED:
            self._end(event)
        elif event.kind is Kind.POSE:
            assert event.frame is not None
            self._take(0, Work(event.index, event.epoch, event.frame, self.gears[event.gear]))
        else:
            work = self._find(event)
            if event.group == last:
                return work.picture()
            self._take(event.group, work)
        return None

    def _take(self, group: int, work: Work) -> None:
        lane = self.lanes[group]
        if lane.ended:
            raise _ImpossibleError("no more frames after a swap", f"frame {work.index} of epoch {work.epoch}")
        self._finish(group)
        lane.renew(work.epoch)
        lane.due = iter([(work, lane.stages)])

    def _end(self, event: Event) -> None:
        """The group takes no more: what it holds back is due, one after the other."""
        lane = self.lanes[event.group]
        self._finish(event.group)
        lane.renew(event.epoch)
        lane.due, lane.ended = held_back(lane.stages), True

    def _crash(self, event: Event) -> None:
        lane = self.lanes[event.group]
        for due in lane.due:
            if named(due[0]) == (event.epoch, event.index):
                break
            self._paint(event.group, *due)
        lane.reset()

    def _finish(self, group: int) -> bool:
        """Paint what is due next in the group; whether there was anything."""
        due = next(self.lanes[group].due, None)
        if due is not None:
            self._paint(group, *due)
        return due is not None

    def _paint(self, group: int, work: Work, stages: Sequence[Stage]) -> None:
        following = self.lanes[group + 1].waiting
        # What the next door has no room for was lost there; at the exit nothing waits.
        room = max(2, self.burst) if group + 2 < len(self.lanes) else 0
        while len(following) > room:
            following.popleft()
        following.extend(advance(stages, [work], self.clock))

    def _find(self, event: Event) -> Work:
        """The frame that the group took; those before it were lost at its door."""
        waiting, name = self.lanes[event.group].waiting, (event.epoch, event.index)
        while name not in map(named, waiting):
            if not self._finish(event.group - 1):
                raise _ImpossibleError("a frame that came there", f"frame {event.index} of epoch {event.epoch}")
        while named(work := waiting.popleft()) != name:
            pass
        return work


def named(work: Work) -> tuple[int, int]:
    """Epoch and index of the frame."""
    return work.epoch, work.index
