"""In which order the pictures of two engines leave while one takes over from the other.

Engines are numbered in the order in which they came. Those of one leave when the one before it has ended; until then
its pictures are held, at most `limit` of them: one that keeps its successor waiting for longer is cut off. Sans-IO and
not thread-safe.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from engine.picture import Picture
from streaming.pacer import PacerSettings
from streaming.queues import STALE

CUT_OFF = "cut off"  # of an engine that another has taken over from before it had ended


@dataclass
class Succession:
    """Every method gives the pictures that leave now, in order. At most two engines are at work at once."""

    limit: int = PacerSettings.capacity  # pictures held: the pacer would have no room for more
    turn: int = 0  # the engine whose pictures leave
    epoch: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    _held: deque[Picture] = field(default_factory=deque)  # of engine turn + 1

    def take(self, engine: int, picture: Picture) -> list[Picture]:
        """`engine` has finished `picture`."""
        if picture.epoch < self.epoch:
            self.drops[STALE] += 1
            return []
        if engine < self.turn:
            self.drops[CUT_OFF] += 1
            return []
        if engine == self.turn:
            return [picture]
        if engine != self.turn + 1:
            raise ValueError(f"engine {engine} cannot follow engine {self.turn}")
        self._held.append(picture)
        return self.end(self.turn) if len(self._held) > self.limit else []

    def end(self, engine: int) -> list[Picture]:
        """`engine` has ended, or is not waited for any longer."""
        if engine != self.turn:
            return []
        self.turn += 1
        leaving = list(self._held)
        self._held.clear()
        return leaving

    def begin(self, epoch: int) -> None:
        """A new epoch: no picture of an older one leaves any more."""
        self.epoch = epoch
        kept = [picture for picture in self._held if picture.epoch >= epoch]
        self.drops[STALE] += len(self._held) - len(kept)
        self._held = deque(kept)

    @property
    def held(self) -> int:
        """How many pictures wait for their turn."""
        return len(self._held)
