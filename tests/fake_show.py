"""A show without an engine: a moving test picture and a tone in syllables. Its clock is whoever asks."""

from __future__ import annotations

import functools

import numpy as np

from engine.picture import Picture
from streaming.governor import GovernorStatus
from streaming.pacer import Shown
from streaming.show import ShowStatus

DELAY_NS = 120_000_000
CORNER = (200, 40, 40)  # the top left 64 x 64 pixels, for tests of colour


class FakeShow:
    """Satisfies `streaming.show.Show`. Every `repeat_every`-th picture is a repeat."""

    fps = 25.0

    def __init__(self, repeat_every: int = 0, live: bool = True, governor: GovernorStatus | None = None) -> None:
        self.live = live
        self.governor = governor
        self.running = False
        self.taken = 0
        self._repeat_every = repeat_every
        self._pictures = _pictures()
        self._last: Picture | None = None

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    def take(self, play_ns: int) -> Shown | None:
        if not self.live:
            return None
        self.taken += 1
        if self._last is not None and self._repeat_every and self.taken % self._repeat_every == 0:
            return Shown(self._last, "starved")
        image, condition = self._pictures[self.taken % len(self._pictures)]
        stages = {"condition": 4_000_000, "denoise": 12_000_000, "decode": 9_000_000}
        self._last = Picture(self.taken, 0, play_ns - DELAY_NS, image, condition, stages)
        return Shown(self._last)

    def sound(self, count: int, play_ns: int) -> np.ndarray:
        seconds = play_ns / 1e9 + np.arange(count) / 48_000
        syllables = np.clip(np.sin(2 * np.pi * 3.5 * seconds), 0, 1)
        voice = sum(np.sin(2 * np.pi * 130 * k * seconds) / k for k in range(1, 9))
        return np.clip(6000 * syllables * voice, -32768, 32767).astype(np.int16)  # (count,)

    def status(self) -> ShowStatus:
        return ShowStatus(
            avatar="test picture",
            source="test pattern",
            sound="test tone",
            live=self.live,
            delay_ns=DELAY_NS,
            drops={"denoise queue": 2},
            stage_ns=self._last.stage_ns if self._last else {},
            governor=self.governor,
            person="synthetic",
        )


@functools.cache
def _pictures() -> list[tuple[np.ndarray, np.ndarray]]:
    return [_picture(phase / 50) for phase in range(50)]


def _picture(phase: float) -> tuple[np.ndarray, np.ndarray]:
    """A figure that sways once per cycle, and its grey double as the condition: both (512, 512, 3) uint8."""
    y, x = np.mgrid[0:512, 0:512].astype(np.float32)
    centre = 256 + 40 * np.sin(2 * np.pi * phase)
    head = np.hypot(x - centre, (y - 190) * 0.8) < 78
    body = (np.hypot((x - centre + 10) * 0.62, y - 520) < 185) & (y > 300)
    image = np.empty((512, 512, 3), np.uint8)
    image[..., 0] = 26 + 22 * y / 512
    image[..., 1] = 34 + 30 * y / 512
    image[..., 2] = 52 + 44 * y / 512
    image[body] = (44, 58, 92)
    image[head] = (208, 164, 138)
    mouth = np.hypot((x - centre) / 24, (y - 225) / (4 + 9 * abs(np.sin(6 * np.pi * phase)))) < 1
    image[mouth] = (120, 46, 52)
    image[:64, :64] = CORNER
    condition = np.full((512, 512, 3), 128, np.uint8)
    condition[body] = (150, 120, 220)
    condition[head] = (190, 170, 240)
    return image, condition
