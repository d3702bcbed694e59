"""Bounded queues where the newest wins: a slow stage makes gaps, never delay. What is dropped is counted by reason.

`NewestWins` is the rule, without threads or time; `Door` is the same between two threads. An item belongs to an epoch:
once a queue has seen a newer one, items of older epochs do not pass. Neither knows what the items are.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

OVERTAKEN = "overtaken"  # newer items came before it could be taken
STALE = "stale"  # of an epoch that is over
CLOSED = "closed"  # nobody takes it any more


@dataclass
class NewestWins(Generic[T]):
    """At most `capacity` items; a new one pushes the oldest out. First in, first out among those that stay."""

    capacity: int = 1
    epoch: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    _items: deque[T] = field(default_factory=deque, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {self.capacity}")

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, epoch: int) -> bool:
        """Add an item of `epoch`; False where it is of an older one and dies here."""
        if epoch < self.epoch:
            self.drops[STALE] += 1
            return False
        self.begin(epoch)
        if len(self._items) == self.capacity:
            self._items.popleft()
            self.drops[OVERTAKEN] += 1
        self._items.append(item)
        return True

    def has_room(self, epoch: int) -> bool:
        """Whether an item of `epoch` would push out no other."""
        return epoch != self.epoch or len(self._items) < self.capacity

    def take(self) -> T | None:
        """The oldest item that is left, None where there is none."""
        return self._items.popleft() if self._items else None

    def begin(self, epoch: int) -> None:
        """From here on `epoch`: whatever waits of an older one dies."""
        if epoch > self.epoch:
            self.clear(STALE)
            self.epoch = epoch

    def clear(self, reason: str) -> None:
        """Drop whatever waits."""
        self.drops[reason] += len(self._items)
        self._items.clear()


class Door(Generic[T]):
    """A NewestWins between two threads: `put` never waits unless told to, `take` waits for an item."""

    def __init__(self, capacity: int = 1) -> None:
        self._queue: NewestWins[T] = NewestWins(capacity)
        self._changed = threading.Condition()
        self._closed = self._ending = self._keeping = False

    def put(self, item: T, epoch: int) -> bool:
        """Add an item of `epoch`; False where it is dropped at once: an older epoch, or the door is closed."""
        with self._changed:
            if self._keeping:
                self._changed.wait_for(lambda: self._closed or self._queue.has_room(epoch))
            if self._closed or self._ending:
                self._queue.drops[CLOSED] += 1
                return False
            if not self._queue.put(item, epoch):
                return False
            self._changed.notify()
            return True

    def take(self, timeout: float | None = None, seen: Callable[[T], None] = lambda item: None) -> T | None:
        """The oldest item that is left; None after `timeout` seconds, once the door is closed, or after the last.

        `seen` is called with it before anything else passes; it must be quick.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ending or len(self._queue) > 0, timeout)
            self._changed.notify_all()  # somebody may wait for room
            item = None if self._closed else self._queue.take()
            if item is not None:
                seen(item)
            return item

    def begin(self, epoch: int) -> None:
        """From here on `epoch`: whatever waits of an older one dies."""
        with self._changed:
            self._queue.begin(epoch)
            self._changed.notify_all()

    def keep(self) -> None:
        """From here on nothing is pushed out: `put` waits for room."""
        with self._changed:
            self._keeping = True

    def end(self) -> None:
        """No more will come: whoever takes gets what is left, and then None."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody passes any more; whoever waits is let go."""
        with self._changed:
            self._closed = True
            self._queue.clear(CLOSED)
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def drops(self) -> dict[str, int]:
        """How many items died here, by reason."""
        with self._changed:
            return dict(+self._queue.drops)
