"""A pose log through the stages once more: each group takes the frames that it took live, and begins anew where it did.

What an engine holds (the root's place, noise by position, a ring or a bank) depends on which frames went through which
stage, so a frame that was lost further on still goes as far as it came. It knows neither files nor threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from engine.errors import InputError
from engine.picture import Picture
from engine.pose_log import Event, Kind
from engine.work import Stage, Work, advance


def replay(
    events: Iterable[Event], groups: Sequence[Sequence[Stage]], burst: int, clock: Callable[[], int], where: str
) -> Iterator[Picture]:
    """The pictures that left live, in that order. `groups`: the stages, new or reset, as they shared threads.

    `burst`: how many frames a stage may give at once. `where` names the log in errors: InputError at a hole, at a gear
    that there is not, and at events that cannot have happened.
    """
    lanes = _Lanes([_Lane(stages) for stages in (*groups, ())], burst, clock)
    for number, event in enumerate(events):
        try:
            picture = lanes.happen(event)
        except _ImpossibleError as error:
            raise InputError(where, f"record {number}", error.expected, error.got) from None
        if picture is not None:
            yield picture


class _ImpossibleError(Exception):
    def __init__(self, expected: str, got: str) -> None:
        self.expected, self.got = expected, got


class _Lane:
    """A group of stages and the frames before its door; the last one has no stages and is the exit."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = stages
        self.waiting: deque[Work] = deque()
        self.taken: Work | None = None  # painted only when it is known that it did not crash the group
        self.epoch = 0

    def reset(self) -> None:
        self.taken = None
        for stage in self.stages:
            stage.reset()


@dataclass
class _Lanes:
    lanes: list[_Lane]
    burst: int
    clock: Callable[[], int]

    def happen(self, event: Event) -> Picture | None:
        """Do what happened; the picture that left with it."""
        if event.kind is Kind.HOLE:
            raise _ImpossibleError("a log without holes", f"a hole: {event.index} records could not be written")
        last = len(self.lanes) - 1
        groups = {Kind.POSE: range(1), Kind.TAKEN: range(1, last + 1), Kind.CRASHED: range(last)}[event.kind]
        if event.group not in groups:
            raise _ImpossibleError(f"group {groups.start} to {groups.stop - 1}", str(event.group))
        if event.gear:
            raise _ImpossibleError("gear 0, the only one that this engine has", str(event.gear))
        if event.kind is Kind.CRASHED:
            self.lanes[event.group].reset()
        elif event.kind is Kind.POSE:
            assert event.frame is not None
            self._take(0, Work(event.index, event.epoch, event.frame))
        else:
            work = self._find(event)
            if event.group == last:
                return work.picture()
            self._take(event.group, work)
        return None

    def _take(self, group: int, work: Work) -> None:
        lane = self.lanes[group]
        self._finish(group)
        if work.epoch != lane.epoch:
            lane.epoch = work.epoch
            lane.reset()
        lane.taken = work

    def _finish(self, group: int) -> None:
        """Paint what the group has taken."""
        lane, following = self.lanes[group], self.lanes[group + 1].waiting
        if lane.taken is None:
            return
        work, lane.taken = lane.taken, None
        following.extend(advance(lane.stages, [work], self.clock))
        # A door holds at most max(2, burst), and at most one more burst is painted here before its time.
        while len(following) > 2 * max(2, self.burst):
            following.popleft()

    def _find(self, event: Event) -> Work:
        """The frame that the group took; those before it were lost at its door."""
        waiting, name = self.lanes[event.group].waiting, (event.epoch, event.index)
        if name not in [(work.epoch, work.index) for work in waiting]:
            self._finish(event.group - 1)
        while waiting:
            work = waiting.popleft()
            if (work.epoch, work.index) == name:
                return work
        raise _ImpossibleError("a frame that came there", f"frame {event.index} of epoch {event.epoch}")
