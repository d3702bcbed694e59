"""The one clock that streaming reads: monotonic nanoseconds, given to whoever needs time, so that tests own time.

It knows nothing of calendars. Clocks of other machines are brought to it by `streaming.clock_sync`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

NS = 1_000_000_000  # nanoseconds in a second
MS = 1_000_000  # nanoseconds in a millisecond


class Clock(Protocol):
    """Anything that tells a time which never runs backwards."""

    def now_ns(self) -> int:
        """Nanoseconds since some fixed moment."""
        ...


@dataclass(frozen=True)
class MonotonicClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """`time.monotonic_ns()`."""
        return time.monotonic_ns()


@dataclass
class FakeClock:
    """A clock that a test moves."""

    time_ns: int = 0

    def now_ns(self) -> int:
        """The time that was set."""
        return self.time_ns

    def advance(self, ns: int) -> int:
        """Move forward by `ns` (never back) and return the new time."""
        if ns < 0:
            raise ValueError(f"a monotonic clock does not go back (asked for {ns} ns)")
        self.time_ns += ns
        return self.time_ns
