"""Who is shown: an avatar that can be loaded, and whose picture it is that is on show. Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.avatar import Person
from engine.picture import Picture
from streaming.pipeline import Engine


@dataclass(frozen=True)
class Cast:
    """An avatar for a show. `prepare` loads its engine and warms it up: seconds of work, InputError where it cannot."""

    prepare: Callable[[], Engine]
    fps: float
    avatar: str = ""  # its name
    person: Person = "unknown"


@dataclass
class Credits:
    """Says of each picture whose it is."""

    shown: Cast
    _coming: deque[tuple[tuple[int, int], Cast]] = field(default_factory=deque)

    def enter(self, cast: Cast, first: tuple[int, int]) -> None:
        """From the picture `first` (epoch, index) on it is `cast`."""
        self._coming.append((first, cast))

    def show(self, picture: Picture) -> None:
        """`picture` goes on show."""
        while self._coming and self._coming[0][0] <= (picture.epoch, picture.index):
            self.shown = self._coming.popleft()[1]
