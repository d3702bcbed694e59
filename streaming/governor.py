"""Which gear the engine paints in: down a ladder where delay or frame rate are over budget, up again where there is room.

Nobody can know whether a better gear would hold but by trying it: a climb is a trial, and a gear that fails soon after one
is left alone for longer each time. Sans-IO: time is an argument. It knows neither engine nor pictures.

    governor = Governor(Budget(delay_ns=250 * MS, fps=25.0), ladder(avatar))
    decision = governor.observe(now_ns, submitted=1, delays_ns=[80 * MS])      # once a tick
    pipeline.submit(frame, governor.gear)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.gear import Gear
from streaming.clock import MS, NS

Direction = Literal["down", "up"]


@dataclass(frozen=True)
class Budget:
    """What is asked for."""

    delay_ns: int  # from a pose's capture to its finished picture, at most
    fps: float  # pictures a second; fewer where fewer poses come

    def __str__(self) -> str:
        """The budget in words."""
        return f"{milliseconds(self.delay_ns)}, {self.fps:g} pictures a second"

    def __post_init__(self) -> None:
        """ValueError where nothing could meet it."""
        if self.delay_ns <= 0 or self.fps <= 0:
            raise ValueError(f"a budget must be positive, got {self.delay_ns} ns and {self.fps} pictures a second")


@dataclass(frozen=True)
class Hysteresis:
    """How slowly the governor moves."""

    window_ns: int = 2 * NS  # rates and delays are of so long; nothing is judged before that much of a gear was seen
    down_after_ns: int = NS  # over budget for so long
    up_after_ns: int = 6 * NS  # clearly inside for so long
    dwell_ns: int = 3 * NS  # between two moves, at least
    trial_ns: int = 15 * NS  # a gear that is left within this after a climb has failed
    hold_ns: int = 10 * NS  # a gear that was left is not tried again for so long, twice as long with each failure
    most_hold_ns: int = 320 * NS
    quantile: float = 0.9  # of the delays
    missing: float = 0.05  # of the pictures: more is over budget
    clear: float = 0.8  # of the delay budget: no more is clearly inside


@dataclass(frozen=True)
class Decision:
    """A move by one rung."""

    time_ns: int
    from_rung: int
    to_rung: int
    gear: Gear  # from here on
    reason: str  # in words, with the figures

    @property
    def direction(self) -> Direction:
        """Down is cheaper."""
        return "down" if self.to_rung > self.from_rung else "up"


@dataclass(frozen=True)
class GovernorStatus:
    """A snapshot for people and metrics."""

    rung: int  # 0 is the best
    rungs: int
    gear: Gear
    decisions: dict[Direction, int]  # by direction, since the start
    last: Decision | None
    over: str = ""  # what is over budget now, with the figures, also where nothing cheaper is left


@dataclass
class _Trial:
    """What climbing to a rung has taught."""

    climbed_ns: int | None = None
    failures: int = 0  # in a row
    not_before_ns: int | None = None


class Governor:
    """Not thread-safe: one loop owns it. It begins on the best rung."""

    def __init__(self, budget: Budget, ladder: Sequence[Gear], hysteresis: Hysteresis | None = None) -> None:
        """`ladder`: from the best gear to the cheapest. ValueError where it is empty."""
        if not ladder:
            raise ValueError("a ladder needs a rung")
        self.budget, self.ladder = budget, tuple(ladder)
        self._rules = hysteresis or Hysteresis()
        self._rung = 0
        self._last: Decision | None = None
        self._counts: dict[Direction, int] = {"down": 0, "up": 0}
        self._trials = [_Trial() for _ in ladder]
        self._seen: deque[tuple[int, int, Sequence[int]]] = deque()  # (time, submitted, delays), of the window
        self._since_ns: int | None = None  # when this gear began
        self._over = ""  # what is over budget, with the figures
        self._over_ns: int | None = None  # since when
        self._inside_ns: int | None = None  # clearly inside since

    @property
    def gear(self) -> Gear:
        """What the next frame is to be painted in."""
        return self.ladder[self._rung]

    def status(self) -> GovernorStatus:
        """Where it stands."""
        return GovernorStatus(self._rung, len(self.ladder), self.gear, dict(self._counts), self._last, self._over)

    def observe(self, now_ns: int, submitted: int, delays_ns: Sequence[int]) -> Decision | None:
        """What happened since the last call: poses that were submitted, and the delay of each picture that was finished.

        Times must not fall. Poses of which no picture comes are drops. The move, where there is one.
        """
        if self._since_ns is None:
            self._since_ns = now_ns
        self._seen.append((now_ns, submitted, tuple(delays_ns)))
        while self._seen[0][0] <= now_ns - self._rules.window_ns:
            self._seen.popleft()
        if now_ns - self._since_ns < self._rules.window_ns:
            return None  # the window holds another gear's frames
        self._over, inside, figures = self._judge()
        self._over_ns = (now_ns if self._over_ns is None else self._over_ns) if self._over else None
        self._inside_ns = (now_ns if self._inside_ns is None else self._inside_ns) if inside else None
        if now_ns - self._since_ns < self._rules.dwell_ns:
            return None
        if self._over_ns is not None and now_ns - self._over_ns >= self._rules.down_after_ns:
            return self._down(now_ns)
        if self._inside_ns is not None and now_ns - self._inside_ns >= self._rules.up_after_ns:
            return self._up(now_ns, f"clearly inside for {seconds(now_ns - self._inside_ns)}: {figures}")
        return None

    def _judge(self) -> tuple[str, bool, str]:
        """What is over budget, with the figures; whether all is clearly inside; the figures. Neither where no pose came."""
        rules = self._rules
        window_s = rules.window_ns / NS
        submitted = sum(count for _, count, _ in self._seen)
        delays = sorted(delay for _, _, some in self._seen for delay in some)
        if not submitted and not delays:
            return "", False, ""
        wanted = min(self.budget.fps * window_s, submitted)
        # A picture more or less lies at the window's edges.
        few = len(delays) + 1 < wanted * (1 - rules.missing)
        enough = len(delays) + 1 >= wanted * (1 - rules.missing / 2)
        delay = delays[min(int(len(delays) * rules.quantile), len(delays) - 1)] if delays else None
        late = delay is not None and delay > self.budget.delay_ns
        clear = delay is not None and delay <= self.budget.delay_ns * rules.clear
        painted = f"{len(delays) / window_s:.1f} of {wanted / window_s:.1f} pictures a second painted"
        took = (
            f"delay {milliseconds(delay)} of {milliseconds(self.budget.delay_ns)}"
            if delay is not None
            else "no picture"
        )
        over = " and ".join(["too few pictures"] * few + ["too late"] * late)
        figures = f"{painted}, {took}"
        return f"{over}: {figures}" if over else "", enough and clear, figures

    def _down(self, now_ns: int) -> Decision | None:
        if self._rung + 1 == len(self.ladder):
            return None  # there is nothing cheaper
        rules, trial = self._rules, self._trials[self._rung]
        failed = trial.climbed_ns is not None and now_ns - trial.climbed_ns <= rules.trial_ns
        trial.failures = trial.failures + 1 if failed else 0
        hold_ns = min(rules.hold_ns << min(trial.failures, 32), rules.most_hold_ns)
        trial.not_before_ns = now_ns + hold_ns
        return self._move(now_ns, self._rung + 1, f"{self._over}; back after {seconds(hold_ns)} at the earliest")

    def _up(self, now_ns: int, reason: str) -> Decision | None:
        if self._rung == 0:
            return None
        trial = self._trials[self._rung - 1]
        if trial.not_before_ns is not None and now_ns < trial.not_before_ns:
            return None
        trial.climbed_ns = now_ns
        return self._move(now_ns, self._rung - 1, reason)

    def _move(self, now_ns: int, rung: int, reason: str) -> Decision:
        self._last = Decision(now_ns, self._rung, rung, self.ladder[rung], reason)
        self._counts[self._last.direction] += 1
        self._rung, self._since_ns = rung, now_ns
        self._over, self._over_ns, self._inside_ns = "", None, None
        return self._last


def milliseconds(ns: int) -> str:
    """In whole ones, for people."""
    return f"{ns / MS:.0f} ms"


def seconds(ns: int) -> str:
    """In whole ones, for people."""
    return f"{ns / NS:.0f} s"
