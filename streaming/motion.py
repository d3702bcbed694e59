"""Whose motion is shown: live motion capture while it comes in, else the clip, with smooth changes between them.

Sans-IO: time is an argument. It knows neither sockets nor the engine.
"""

from __future__ import annotations

from engine.pose import PoseFrame
from streaming.clock import NS
from streaming.concealment import ConcealmentSettings, Difference, smoothstep
from streaming.jitter import JitterBuffer
from streaming.sources.file import Player

AWAY_NS = 3 * NS  # live motion that has been idle for so long gives way to the clip


class Motion:
    """Asked for each frame in turn. Not thread-safe: the event loop owns it."""

    def __init__(self, jitter: JitterBuffer, player: Player | None) -> None:
        self._jitter = jitter
        self._player = player
        self._heard_ns: int | None = None  # when live motion was last more than idle
        self._from_live = False
        self._shown: PoseFrame | None = None
        self._fading: tuple[Difference, int, int] | None = None  # the difference, since when, for how long

    @property
    def from_live(self) -> bool:
        """Whether the last frame was live motion capture."""
        return self._from_live

    def moving(self, now_ns: int) -> bool:
        """Whether somebody moves: live motion comes in, or the clip has not ended."""
        if self._from_live:
            return self._jitter.state != "idle"
        return self._player is not None and not self._player.ended(now_ns)

    def frame(self, now_ns: int) -> PoseFrame | None:
        """The pose to show next; None while there is none."""
        true = self._choose(now_ns)
        if true is None:
            return None
        self._shown = self._faded(true, now_ns)
        return self._shown

    def _choose(self, now_ns: int) -> PoseFrame | None:
        live = self._jitter.sample(now_ns)
        if live is not None and self._jitter.state != "idle":
            self._heard_ns = now_ns
        wanted = self._heard_ns is not None and (self._player is None or now_ns - self._heard_ns < AWAY_NS)
        true = live if wanted else self._player.frame(now_ns) if self._player is not None else live
        if true is not None and wanted != self._from_live and self._shown is not None:
            difference = Difference.between(self._shown, true)
            self._fading = difference, now_ns, difference.fade_ns(ConcealmentSettings())
        self._from_live = wanted
        return true

    def _faded(self, true: PoseFrame, now_ns: int) -> PoseFrame:
        """`true` with what is left of the last change of source."""
        if self._fading is None:
            return true
        difference, since_ns, fade_ns = self._fading
        left = 1.0 - smoothstep((now_ns - since_ns) / fade_ns)
        if left <= 0.0:
            self._fading = None
            return true
        return difference.apply(true, left)
