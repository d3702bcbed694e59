"""A clip and its speech played at their own pace on the server's clock, over and over.

`Player` is sans-IO: asked for a moment, it gives the pose of that moment and the speech up to it. `open_player` reads
the files.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.clips import read_clip
from engine.errors import InputError
from engine.pose import PoseClip, PoseFrame
from engine.resample import interpolate
from streaming.audio import read_audio
from streaming.clock import MS, NS, Clock
from streaming.concealment import ConcealmentSettings, Difference, blend, smoothstep
from streaming.messages import SAMPLE_RATE

CHUNK = SAMPLE_RATE // 50  # samples, 20 ms
SEAM_NS = 400 * MS  # the end of the clip goes over into its beginning for at least so long
FADE = SAMPLE_RATE // 200  # samples at both ends of the speech, 5 ms, so that the loop does not click
BEHIND_NS = NS  # speech that is older than this when it is asked for is left out


class Player:
    """A clip with its speech from `start_ns` on. One round lasts as long as the longer of the two.

    Times are on the server's clock, poses are interpolated to any moment. Where `loop` is set, the motion of the end
    goes over into that of the beginning without a jump.
    """

    def __init__(
        self, clip: PoseClip, speech: np.ndarray | None = None, start_ns: int = 0, loop: bool = True, chunk: int = CHUNK
    ) -> None:
        self.clip = clip
        self.start_ns = start_ns
        self.loop = loop
        self.chunk = chunk
        self.voice = _faded(speech) if speech is not None else np.zeros(0, np.int16)  # (n,) int16, 48 kHz mono
        self.period_ns = max(round(clip.seconds * NS), len(self.voice) * NS // SAMPLE_RATE)
        self._last_ns = round((len(clip) - 1) * NS / clip.fps)  # of the clip's last sample
        self._seam_ns = self._seam() if loop else 0
        self._spoken = (0, 0)  # round and sample that come next

    def seek(self, seconds: float, now_ns: int) -> None:
        """Be `seconds` into the round at `now_ns`; speech from before that place is not given any more.

        InputError where the round is shorter.
        """
        into_ns = round(seconds * NS) if math.isfinite(seconds) else -1
        if not 0 <= into_ns < self.period_ns:
            expected = f"0 to {self.period_ns / NS:.2f} seconds"
            raise InputError(self.clip.source, "position", expected, f"{seconds:g}")
        self.start_ns = now_ns - into_ns
        first = -(-into_ns * SAMPLE_RATE // (NS * self.chunk)) * self.chunk
        self._spoken = (0, first) if first < len(self.voice) else (1, 0)

    def ended(self, now_ns: int) -> bool:
        """Whether it is over: never in a loop."""
        return not self.loop and now_ns - self.start_ns >= self.period_ns

    def frame(self, now_ns: int) -> PoseFrame:
        """The pose at `now_ns`: before the start the first one, after the end the last one."""
        passed = max(0, now_ns - self.start_ns)
        into = passed % self.period_ns if self.loop else min(passed, self.period_ns)
        frame = self._clip_frame(into, now_ns)
        seam = into - (self.period_ns - self._seam_ns)
        if seam <= 0:
            return frame
        return blend(frame, self.clip.frame(0), smoothstep(seam / self._seam_ns), now_ns)

    def speech(self, until_ns: int) -> list[tuple[np.ndarray, int]]:
        """The speech not given yet that has ended by `until_ns`: samples (n,) int16 and when the first was captured."""
        given: list[tuple[np.ndarray, int]] = []
        while len(self.voice) and (self.loop or self._spoken[0] == 0):
            turn, first = self._spoken
            begin_ns = self.start_ns + turn * self.period_ns
            samples = self.voice[first : first + self.chunk]
            capture_ns = begin_ns + first * NS // SAMPLE_RATE
            if begin_ns + (first + len(samples)) * NS // SAMPLE_RATE > until_ns:
                break
            if until_ns - capture_ns > BEHIND_NS:  # nobody asked for long: skip to what is still of use
                turn, into = divmod(max(until_ns - BEHIND_NS - self.start_ns, 0), self.period_ns)
                jumped = (turn, -(-into * SAMPLE_RATE // (NS * self.chunk)) * self.chunk)
                self._spoken = max(jumped, (self._spoken[0], first + self.chunk))
            else:
                given.append((samples, capture_ns))
                self._spoken = (turn, first + self.chunk)
            if self._spoken[1] >= len(self.voice):
                self._spoken = (self._spoken[0] + 1, 0)
        return given

    def _clip_frame(self, into_ns: int, now_ns: int) -> PoseFrame:
        left = min(int(min(into_ns, self._last_ns) * self.clip.fps / NS), len(self.clip) - 1)
        right = min(left + 1, len(self.clip) - 1)
        begin_ns = now_ns - into_ns
        return interpolate(self.clip.frame(left, begin_ns), self.clip.frame(right, begin_ns), now_ns)

    def _seam(self) -> int:
        """Longer the farther the last pose is from the first, up to a quarter of the round; and no pause before it."""
        apart = Difference.between(self.clip.frame(len(self.clip) - 1), self.clip.frame(0))
        seam_ns = min(max(SEAM_NS, apart.fade_ns(ConcealmentSettings())), self.period_ns // 4)
        return max(seam_ns, self.period_ns - self._last_ns)


def open_player(clip: Path, audio: Path | None, start_ns: int, loop: bool = True) -> Player:
    """A player for a clip file and, where given, a sound file. InputError where one cannot be read."""
    return Player(read_clip(clip), read_audio(audio) if audio is not None else None, start_ns, loop)


async def play(
    player: Player,
    clock: Clock,
    fps: float,
    on_frame: Callable[[PoseFrame], None],
    on_speech: Callable[[np.ndarray, int], None],
) -> None:
    """Give frames at `fps` and speech as it comes, until the player ends (in a loop: until cancelled).

    The schedule is absolute, so nothing drifts; ticks that were missed are left out.
    """
    tick = 0
    while True:
        now_ns = clock.now_ns()
        due_ns = player.start_ns + round(tick * NS / fps)
        if due_ns > now_ns:
            await asyncio.sleep((due_ns - now_ns) / NS)
            continue
        if player.ended(due_ns):
            return
        tick = max(tick, int((now_ns - player.start_ns) * fps / NS))
        on_frame(player.frame(player.start_ns + round(tick * NS / fps)))
        for samples, capture_ns in player.speech(now_ns):
            on_speech(samples, capture_ns)
        tick += 1


def _faded(speech: np.ndarray) -> np.ndarray:
    """(n,) int16 with both ends faded."""
    faded = speech.copy()
    fade = min(FADE, len(speech) // 2)
    ramp = np.arange(fade, dtype=np.float32) / max(fade, 1)
    faded[:fade] = (faded[:fade] * ramp).astype(np.int16)
    faded[len(faded) - fade :] = (faded[len(faded) - fade :] * ramp[::-1]).astype(np.int16)
    return faded
