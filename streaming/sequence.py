"""Message numbers that wrap (u32): order, duplicates, loss. Serial number arithmetic of RFC 1982; it knows no times."""

from __future__ import annotations

from dataclasses import dataclass

BITS = 32
WINDOW = 256  # how far back duplicates are told from late messages


@dataclass
class Sequence:
    """The numbers of one sender session."""

    newest: int | None = None  # the number as the sender wrote it
    lost: int = 0  # numbers up to the newest that have not come
    _seen: int = 0  # bit i: the number `newest - i` has come

    def ahead(self, number: int) -> int:
        """How far `number` is ahead of the newest; negative when behind. 1 before the first."""
        if self.newest is None:
            return 1
        forward = (number - self.newest) % (1 << BITS)
        return forward - (1 << BITS) if forward >= 1 << (BITS - 1) else forward

    def take(self, number: int) -> str:
        """Note that `number` has come: "new", "late" (fills a hole), "duplicate", or "old" (too far back to know)."""
        step = self.ahead(number)
        if step > 0:
            self.lost += step - 1 if self.newest is not None else 0
            self._seen = ((self._seen << min(step, WINDOW)) | 1) & ((1 << WINDOW) - 1)
            self.newest = number
            return "new"
        if -step >= WINDOW:
            return "old"
        if self._seen >> -step & 1:
            return "duplicate"
        self._seen |= 1 << -step
        self.lost -= 1
        return "late"
