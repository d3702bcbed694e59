"""The jitter buffer: poses of one live sender, as they come, to a pose for any moment, on the server's clock.

Messages come late, twice, out of order or not at all, from a clock of their own, by senders that restart or send
nonsense. `push` takes them and never raises; `sample` gives the pose of a moment that lies a short delay back,
interpolated between the messages around it. The delay follows the measured jitter. What is missing is concealed
(`streaming.concealment`). Sans-IO: time is an argument. It knows no sockets and no bytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from engine.pose import PoseFrame
from engine.resample import interpolate
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from streaming.clock import MS, NS
from streaming.clock_sync import ClockSync, SyncSettings
from streaming.concealment import ConcealmentSettings, Difference, conceal, smoothstep, standing
from streaming.messages import MAX_BETAS, PoseMessage, SpeechMessage
from streaming.sequence import Sequence


@dataclass(frozen=True)
class JitterSettings:
    """Times in ns."""

    first_delay_ns: int = 60 * MS
    least_delay_ns: int = 10 * MS
    most_delay_ns: int = 300 * MS
    quantile: float = 0.98  # of the lateness that the delay covers
    window: int = 256  # messages that the quantile is taken over
    slew: float = 0.03  # the delay moves this fast: motion 3 % slower or faster
    capacity: int = 256  # frames held
    takeover_ns: int = 500 * MS  # another session is heard when this one has been silent so long
    jump_ns: int = NS  # a message this far from its expected time is out of place
    jump_messages: int = 3  # so many in a row, at their own pace ...
    jump_span_ns: int = 250 * MS  # ... over so long, and the sender's clock or count is taken to have restarted


# By part: its length (None: any up to 300) and the largest absolute value that is believed. Two turns of a joint are.
PARTS: tuple[tuple[str, int | None, float], ...] = (
    ("pose", POSE_DIMS, 13.0),
    ("expression", EXPRESSION_DIMS, 100.0),
    ("transl", 3, 100.0),
    ("betas", None, 100.0),
)


@dataclass
class JitterCounters:
    """What came, and what was shown."""

    received: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by reason: shape, nan, huge, session, jump, old, overflow
    late: int = 0  # came after its moment had been shown
    duplicate: int = 0
    lost: int = 0  # never came, so far
    restarts: int = 0  # new sessions and restarted clocks, but the first
    live: int = 0  # samples between two messages
    extrapolated: int = 0  # samples by kind of concealment
    held: int = 0
    easing: int = 0
    idle: int = 0


@dataclass
class _Sender:
    """One session of one sender."""

    session: int
    sync: ClockSync
    sequence: Sequence = field(default_factory=Sequence)
    heard_ns: int = 0
    newest: PoseMessage | None = None
    suspects: list[tuple[int, int, int]] = field(default_factory=list)  # first and last (sequence, capture, arrival)
    suspected: int = 0


@dataclass(frozen=True, slots=True)
class _Track:
    """Where the motion comes from: between two frames, or, where there is no `after`, from `last` on."""

    before: PoseFrame | None
    last: PoseFrame
    after: PoseFrame | None


class JitterBuffer:
    """Memory is fixed by its settings. Not thread-safe: one thread or loop owns it."""

    def __init__(
        self,
        settings: JitterSettings | None = None,
        idle: PoseFrame | None = None,
        concealment: ConcealmentSettings | None = None,
        sync: SyncSettings | None = None,
    ) -> None:
        self.settings = settings or JitterSettings()
        self.counters = JitterCounters()
        self.betas: np.ndarray | None = None  # the newest that the sender told
        self.state = "empty"  # then live, extrapolated, held, easing, idle: of the last sample
        self._idle = idle or standing()
        self._concealment = concealment or ConcealmentSettings()
        self._sync = sync or SyncSettings()
        self._sender: _Sender | None = None
        self._lost_before = 0  # by earlier sessions
        self._frames: list[PoseFrame] = []  # on the server's clock, in order
        self._lateness: deque[int] = deque(maxlen=self.settings.window)
        self._interval = 0.0  # between the sender's frames, ns, smoothed
        self._delay = float(self.settings.first_delay_ns)
        self._now: int | None = None  # of the last sample
        self._playhead = -(1 << 62)
        self._track: _Track | None = None
        self._fading: tuple[Difference, int, int] | None = (
            None  # the difference, when it began to fade, and for how long
        )

    @property
    def delay_ns(self) -> int:
        """How far back the sampled moment lies."""
        return round(self._delay)

    @property
    def sender(self) -> int | None:
        """The session that is listened to."""
        return self._sender.session if self._sender else None

    @property
    def skew(self) -> float:
        """Of the sender's clock against ours; 1e-6 is one part per million."""
        return self._sender.sync.skew if self._sender else 0.0

    def push(self, message: PoseMessage, now_ns: int) -> bool:
        """Take a message that arrived at `now_ns`. False where it is refused, which `counters` tell by reason."""
        self.counters.received += 1
        reason = _unfit(message) or self._choose_sender(message, now_ns)
        sender = self._sender
        if reason or sender is None:
            return self._refuse(reason)
        if self._out_of_place(sender, message, now_ns):
            if not self._restarted(sender, message, now_ns):
                return self._refuse("jump")
            sender = self._start(message.session)
        sender.suspects.clear()
        sender.heard_ns = now_ns
        return self._place(sender, message, now_ns)

    def align(self, message: SpeechMessage, now_ns: int) -> int | None:
        """The capture time of a piece of speech on the server's clock; None where it is not of our sender."""
        sender = self._sender
        if sender is None or sender.newest is None or message.session != sender.session:
            return None
        capture_ns = sender.sync.to_server(message.capture_ns)
        return capture_ns if abs(now_ns - capture_ns) <= self.settings.jump_ns else None

    def sample(self, now_ns: int) -> PoseFrame | None:
        """The pose of the moment `now_ns - delay_ns`, None before the first message. Its times never go back."""
        self._move_delay(now_ns)
        if not self._frames:
            return None
        self._playhead = max(self._playhead, now_ns - self.delay_ns)
        track = self._find(self._playhead)
        true, state = self._on(track, self._playhead)
        if self._track is not None and not _continues(self._track, track, self._playhead):
            shown = self._faded(self._on(self._track, self._playhead)[0])
            difference = Difference.between(shown, true)
            self._fading = (difference, self._playhead, difference.fade_ns(self._concealment))
        self._track = track
        self.state = state
        setattr(self.counters, state, getattr(self.counters, state) + 1)
        return self._faded(true)

    # -- taking messages -----------------------------------------------------------------------------------------------

    def _choose_sender(self, message: PoseMessage, now_ns: int) -> str:
        """One sender at a time: another is heard when this one falls silent."""
        if self._sender is not None and self._sender.session != message.session:
            if now_ns - self._sender.heard_ns < self.settings.takeover_ns:
                return "session"
            self._start(message.session)
        elif self._sender is None:
            self._sender = _Sender(message.session, ClockSync(self._sync))
        return ""

    def _start(self, session: int) -> _Sender:
        if self._sender is not None:
            self._lost_before += self._sender.sequence.lost
        self.counters.restarts += 1
        self._lateness.clear()
        self._sender = _Sender(session, ClockSync(self._sync))
        return self._sender

    def _refuse(self, reason: str) -> bool:
        self.counters.refused[reason] += 1
        return False

    def _out_of_place(self, sender: _Sender, message: PoseMessage, now_ns: int) -> bool:
        if sender.newest is None:
            return False
        off = now_ns - sender.sync.to_server(message.capture_ns)
        step = sender.sequence.ahead(message.sequence)
        return abs(off) > self.settings.jump_ns or not -self.settings.capacity < step < 100 * self.settings.capacity

    def _restarted(self, sender: _Sender, message: PoseMessage, now_ns: int) -> bool:
        """Whether messages out of place have come at a steady pace for a while: then they are the new truth."""
        this = (message.sequence, message.capture_ns, now_ns)
        if sender.suspects:
            first, last = sender.suspects[0], sender.suspects[-1]
            step, captured, arrived = (b - a for a, b in zip(last, this, strict=True))
            steady = 0 < step < self.settings.capacity and abs(captured - arrived) < arrived // 2 + 50 * MS
            if steady and captured > 0:
                sender.suspects[1:] = [this]
                sender.suspected += 1
                span = min(this[1] - first[1], this[2] - first[2])
                return sender.suspected >= self.settings.jump_messages and span >= self.settings.jump_span_ns
        sender.suspects[:] = [this]
        sender.suspected = 1
        return False

    def _place(self, sender: _Sender, message: PoseMessage, now_ns: int) -> bool:
        order = sender.sequence.take(message.sequence)
        self.counters.lost = self._lost_before + sender.sequence.lost
        if order == "duplicate":
            self.counters.duplicate += 1
            return False
        if order == "old":
            return self._refuse("old")
        self._lateness.append(sender.sync.push(message.capture_ns, now_ns))
        if order == "new":
            self._note_interval(sender, message)
            sender.newest = message
            if message.betas is not None:
                self.betas = message.betas
        return self._insert(self._frame(message, sender.sync.to_server(message.capture_ns)))

    def _note_interval(self, sender: _Sender, message: PoseMessage) -> None:
        if sender.newest is not None:
            steps = (message.sequence - sender.newest.sequence) % (1 << 32)
            interval = (message.capture_ns - sender.newest.capture_ns) / steps
            if 0 < interval < self.settings.most_delay_ns:
                self._interval += (interval - self._interval) * (0.1 if self._interval else 1.0)

    def _frame(self, message: PoseMessage, time_ns: int) -> PoseFrame:
        """What the sender leaves out is that of idle."""
        idle = self._idle
        return PoseFrame(
            time_ns,
            idle.pose if message.pose is None else message.pose,
            idle.expression if message.expression is None else message.expression,
            idle.transl if message.transl is None else message.transl,
        )

    def _insert(self, frame: PoseFrame) -> bool:
        if frame.time_ns < self._playhead:
            self.counters.late += 1
            if frame.time_ns <= self._frames[-1].time_ns:
                return False  # its moment is over; a newest one still serves to go on from
        at = bisect_left(self._frames, frame.time_ns, key=_time)
        if at < len(self._frames) and self._frames[at].time_ns == frame.time_ns:
            self.counters.duplicate += 1
            return False
        self._frames.insert(at, frame)
        if len(self._frames) > self.settings.capacity:
            del self._frames[0]
            self.counters.refused["overflow"] += 1
        return True

    # -- giving poses --------------------------------------------------------------------------------------------------

    def _move_delay(self, now_ns: int) -> None:
        passed = max(0, now_ns - self._now) if self._now is not None else 0
        self._now = now_ns
        step = self.settings.slew * passed
        self._delay += min(max(self._wanted_delay() - self._delay, -step), step)

    def _wanted_delay(self) -> float:
        """Covers most messages' lateness and the wait for the next one, without which nothing can be interpolated."""
        if len(self._lateness) < 8:
            return self._delay
        late = _quantile(self._lateness, self.settings.quantile)
        return min(max(late + self._interval, self.settings.least_delay_ns), self.settings.most_delay_ns)

    def _find(self, time_ns: int) -> _Track:
        """The frames around `time_ns`; those that no later sample can need are dropped."""
        place = max(bisect_right(self._frames, time_ns, key=_time) - 1, 0)
        drop = max(place - 1, 0)
        del self._frames[:drop]
        place -= drop
        last = self._frames[place]
        before = self._frames[place - 1] if place else None
        if before is not None and last.time_ns - before.time_ns > self._concealment.ease_from_ns:
            before = None  # too long ago to tell a speed
        started = last.time_ns <= time_ns
        return _Track(before, last, self._frames[place + 1] if started and place + 1 < len(self._frames) else None)

    def _on(self, track: _Track, time_ns: int) -> tuple[PoseFrame, str]:
        if track.after is not None and time_ns <= track.after.time_ns:
            return interpolate(track.last, track.after, time_ns), "live"
        if track.after is not None:
            return conceal(track.last, track.after, self._idle, time_ns, self._concealment)
        return conceal(track.before, track.last, self._idle, time_ns, self._concealment)

    def _faded(self, true: PoseFrame) -> PoseFrame:
        """`true` with what is left of the last difference."""
        if self._fading is None:
            return true
        difference, since_ns, fade_ns = self._fading
        left = 1.0 - smoothstep((true.time_ns - since_ns) / fade_ns)
        if left <= 0.0:
            self._fading = None
            return true
        return difference.apply(true, left)


def _unfit(message: PoseMessage) -> str:
    """Why the values of a message are no pose; "" where they are."""
    for name, length, limit in PARTS:
        array = getattr(message, name)
        if array is None:
            continue
        if array.ndim != 1 or not 0 < len(array) <= MAX_BETAS or length not in (None, len(array)):
            return "shape"
        largest = float(np.abs(array).max())
        if not np.isfinite(largest):
            return "nan"
        if largest > limit:
            return "huge"
    return ""


def _continues(old: _Track, new: _Track, time_ns: int) -> bool:
    """Whether the motion goes on from one track to the other without a jump at `time_ns`."""
    if old.after is None:
        return new.last is old.last and (new.after is None or time_ns <= old.last.time_ns)
    if time_ns <= old.after.time_ns:
        return new.last is old.last and new.after is old.after
    return True  # it has passed through `old.after`, which lies on the new track as well


def _time(frame: PoseFrame) -> int:
    return frame.time_ns


def _quantile(values: Iterable[int], share: float) -> int:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
