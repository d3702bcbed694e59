"""The one door for bytes from any transport: decode, pass poses and speech on, count what is refused.

A source (UDP, WebSocket, data channel) calls `feed` with each message. Nothing is queued here and nothing is raised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import structlog

from streaming.clock import NS, Clock
from streaming.jitter import JitterBuffer
from streaming.messages import PoseMessage
from streaming.sources.wire import WireError, decode

Feed = Callable[[bytes | bytearray | memoryview | str], bool]
OnSpeech = Callable[[np.ndarray, int], None]  # samples (n,) int16, capture time on the server's clock

QUIET_NS = 10 * NS  # between two log lines about refused messages

log = structlog.get_logger(__name__)


@dataclass
class IntakeCounters:
    """Messages by what became of them. Poses that the jitter buffer refuses are counted there."""

    poses: int = 0
    speech: int = 0
    unheard: int = 0  # speech of a sender whose poses are not listened to
    malformed: Counter[str] = field(default_factory=Counter)  # by field


@dataclass
class Intake:
    """Where the messages of all transports come together. Not thread-safe: the event loop owns it."""

    jitter: JitterBuffer
    clock: Clock
    on_speech: OnSpeech | None = None
    counters: IntakeCounters = field(default_factory=IntakeCounters)
    _logged_ns: int | None = None

    def feed(self, data: bytes | bytearray | memoryview | str) -> bool:
        """Take one message that has just arrived. False where it was refused."""
        now_ns = self.clock.now_ns()
        try:
            if isinstance(data, str):
                raise WireError("message", "type", "binary", "text")
            message = decode(data)
        except WireError as error:
            self.counters.malformed[error.field] += 1
            self._tell(error, now_ns)
            return False
        if isinstance(message, PoseMessage):
            self.counters.poses += 1
            return self.jitter.push(message, now_ns)
        capture_ns = self.jitter.align(message, now_ns)
        if capture_ns is None:
            self.counters.unheard += 1
            return False
        self.counters.speech += 1
        if self.on_speech is not None:
            self.on_speech(message.samples, capture_ns)
        return True

    def _tell(self, error: WireError, now_ns: int) -> None:
        """Log it, seldom: a broken sender sends many."""
        if self._logged_ns is None or now_ns - self._logged_ns >= QUIET_NS:
            self._logged_ns = now_ns
            log.warning("message refused", reason=str(error), refused=self.counters.malformed.total())
