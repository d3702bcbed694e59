"""When each picture is shown: its capture time plus one smooth delay, the same number that delays the speech.

The delay follows the measured time from pose capture to finished picture: a high quantile of it plus a margin. It is
slewed no faster than `DelayLine` can follow unheard, and stepped only while the speech is silent. Sans-IO: time is an
argument. It knows neither tracks nor encoders.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from engine.picture import Picture
from streaming.clock import MS, NS


@dataclass(frozen=True)
class PacerSettings:
    """How the delay is chosen."""

    margin_ns: int = 10 * MS  # above the measured pipeline time
    quantile: float = 0.95
    window: int = 100  # pictures that the quantile is taken over
    least_ns: int = 0
    most_ns: int = 2 * NS
    slew: float = 0.004  # nanoseconds per nanosecond while speech runs; `DelayLine` follows up to 0.005
    dead_band_ns: int = 5 * MS  # a wish nearer than this moves nothing
    slack_ns: int = 18 * MS  # about half a tick: a picture may be so early or late to have a tick of its own
    capacity: int = 32  # pictures waiting


@dataclass
class PacerCounters:
    """What happened at the door. Every take that has a picture counts one of shown, starved and waiting."""

    shown: int = 0  # a new picture
    starved: int = 0  # repeats: nothing was ready, the model is behind
    waiting: int = 0  # repeats: the next picture is ready and its time has not come
    late: int = 0  # arrived after its playout time (and was still shown, unless also skipped)
    skipped: int = 0  # never shown: a newer one was due as well
    disordered: int = 0  # never shown: older than the one on show
    stale: int = 0  # never shown: of an epoch that is over
    overflow: int = 0  # never shown: too many waited
    steps: int = 0  # jumps of the delay, in silence


@dataclass(frozen=True, slots=True)
class Shown:
    """What a tick shows."""

    picture: Picture
    repeat: str = ""  # "" for a new picture, else why the last one is shown again: "starved" or "waiting"


@dataclass
class Pacer:
    """Takes finished pictures and gives one at each tick. Not thread-safe: one thread or loop owns it."""

    settings: PacerSettings = field(default_factory=PacerSettings)
    counters: PacerCounters = field(default_factory=PacerCounters)
    epoch: int = 0
    _queue: deque[Picture] = field(default_factory=deque)  # in order of capture
    _times: deque[int] = field(init=False)  # measured pipeline times, ns
    _wish: int = 0  # where the delay should be, ns
    _delay: int | None = None
    _last: Picture | None = None
    _now: int | None = None  # of the last take

    def __post_init__(self) -> None:
        self._times = deque(maxlen=self.settings.window)

    @property
    def delay_ns(self) -> int:
        """Playout time less capture time. Zero before the first picture."""
        return self._delay or 0

    @property
    def wish_ns(self) -> int:
        """Where the delay is going."""
        return self._wish

    def reset(self, epoch: int) -> None:
        """Begin `epoch`: what waits is dropped, and pictures of older epochs that still come are refused.

        What was measured stays: the engine is the same, and one picture alone would make the delay jump.
        """
        self.counters.stale += len(self._queue)
        self._queue.clear()
        self.epoch = epoch

    def push(self, picture: Picture, now_ns: int) -> None:
        """Take a picture that was finished at `now_ns`."""
        if picture.epoch < self.epoch:
            self.counters.stale += 1
            return
        if picture.epoch > self.epoch:
            self.reset(picture.epoch)
        self._measure(now_ns - picture.capture_ns)
        newest = self._queue[-1] if self._queue else self._last
        if newest is not None and newest.epoch == picture.epoch and picture.capture_ns <= newest.capture_ns:
            self.counters.disordered += 1
            return
        self.counters.late += now_ns > picture.capture_ns + self.delay_ns
        self._queue.append(picture)
        if len(self._queue) > self.settings.capacity:
            self._queue.popleft()
            self.counters.overflow += 1

    def take(self, now_ns: int, silent: bool = False) -> Shown | None:
        """The picture to show at `now_ns`, None before the first. `silent`: the speech pauses, the delay may jump."""
        self._move_delay(now_ns, silent)
        due = self._due(now_ns)
        if due is not None:
            self._last = due
            self.counters.shown += 1
            return Shown(due)
        if self._last is None:
            return None
        if self._queue:
            self.counters.waiting += 1
            return Shown(self._last, "waiting")
        self.counters.starved += 1
        return Shown(self._last, "starved")

    def _due(self, now_ns: int) -> Picture | None:
        """The newest picture that is due, leaving the next one to the next tick where it is due only just.

        Without that slack, ticks and pictures of one rate but an unlucky phase would repeat and skip in turn.
        """
        captured = now_ns - self.delay_ns  # what is captured by then is due
        slack = self.settings.slack_ns
        if not self._queue or self._queue[0].capture_ns > captured + slack:
            return None
        while len(self._queue) > 1 and self._queue[1].capture_ns <= captured - slack:
            self._queue.popleft()
            self.counters.skipped += 1
        return self._queue.popleft()

    def _measure(self, pipeline_ns: int) -> None:
        self._times.append(pipeline_ns)
        ordered = sorted(self._times)
        high = ordered[min(int(len(ordered) * self.settings.quantile), len(ordered) - 1)]
        wish = min(max(high + self.settings.margin_ns, self.settings.least_ns), self.settings.most_ns)
        if self._delay is None:
            self._delay = self._wish = wish
        elif abs(wish - self._wish) > self.settings.dead_band_ns:
            self._wish = wish

    def _move_delay(self, now_ns: int, silent: bool) -> None:
        passed = max(0, now_ns - self._now) if self._now is not None else 0
        self._now = now_ns
        if self._delay is None or self._delay == self._wish:
            return
        gap = self._wish - self._delay
        if silent:
            self._delay = self._wish
            self.counters.steps += 1
        else:
            step = round(self.settings.slew * passed)
            self._delay += min(max(gap, -step), step)
