"""What a server shows: pictures and sound on time, and what is known about them. It knows nothing of WebRTC or HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from engine.avatar import Person
from streaming.governor import GovernorStatus
from streaming.pacer import Shown
from streaming.recorder import Recording


@dataclass(frozen=True)
class ShowStatus:
    """A snapshot for people and metrics. Counters grow from the start of the show."""

    avatar: str  # whose picture was shown last
    source: str  # where poses come from, in words
    sound: str  # where sound comes from, in words; empty where there is none
    live: bool  # poses are coming in
    delay_ns: int  # from a pose's capture to its picture's time on screen, as the pacer holds it
    drops: dict[str, int] = field(default_factory=dict)  # frames that never became a picture, by reason
    stage_ns: dict[str, int] = field(default_factory=dict)  # of the last picture, by stage
    skips: dict[str, int] = field(default_factory=dict)  # pictures that a stage left out, as their gear says, by stage
    governor: GovernorStatus | None = None  # None where there is none
    person: Person = "unknown"  # whom the last picture shows
    swaps: dict[str, int] = field(default_factory=dict)  # of the avatar, by outcome
    recording: Recording | None = None  # of a pose log; None where there is to be none
    trouble: str = ""  # why there is no show, in a line; empty while there is one


class Show(Protocol):
    """A running show. `take` and `sound` are called by the event loop at the times they ask about; neither blocks."""

    fps: float  # pictures a second

    async def start(self) -> None:
        """Start threads and sources. Pictures may take a while to come."""

    async def stop(self) -> None:
        """Stop them, within a second or two. Harmless where nothing was started."""

    def take(self, play_ns: int) -> Shown | None:
        """What to show at `play_ns` on the monotonic clock; None before the first picture. Once for each tick."""

    def sound(self, count: int, play_ns: int) -> np.ndarray:
        """What is heard from `play_ns` on: (count,) int16, mono, 48 kHz; silence where there is nothing."""

    def status(self) -> ShowStatus:
        """What is going on."""
