"""Takes pictures and sound from a show at their times and feeds them to viewers, each encoded once per codec.

One clock drives both: a picture's RTP time and a sound's RTP time are the moments at which the show was asked for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import structlog

from engine.avatar import Person
from streaming import provenance
from streaming.clock import Clock, MonotonicClock
from streaming.metrics import Meter
from streaming.pacer import Shown
from streaming.show import Show
from streaming.webrtc.encoder import AUDIO_CLOCK, OPUS_SAMPLES, VideoCodec, VideoEncoder
from streaming.webrtc.tracks import Outgoing, PacketTrack, SoundFeed, VideoFeed

View = Literal["picture", "condition"]

SOUND_TICK_NS = OPUS_SAMPLES * 1_000_000_000 // AUDIO_CLOCK
SOUND_CATCH_UP_NS = 10 * SOUND_TICK_NS  # a loop that was held up longer than this skips sound instead of bunching it

log = structlog.get_logger()


@dataclass(frozen=True)
class Rates:
    """What is sent: picture sizes in pixels, bitrates in bits per second."""

    picture_size: int = 512
    condition_size: int = 256
    picture: int = 2_500_000
    condition: int = 300_000
    sound: int = 64_000


class Transmitter:
    """Pumps a show into feeds. `start` needs a running event loop; `tick_*` may be called with a time of one's own."""

    def __init__(
        self, show: Show, meter: Meter, rates: Rates | None = None, clock: Clock | None = None, threads: int = 1
    ) -> None:
        self._show = show
        self._meter = meter
        self._rates = rates or Rates()
        self._clock = clock or MonotonicClock()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="encode")
        self._video: dict[tuple[View, VideoCodec], VideoFeed] = {}
        self._sound_executor = ThreadPoolExecutor(1, thread_name_prefix="encode-sound")  # never behind a picture
        self._sound = SoundFeed(self._sound_executor, self._rates.sound)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def person(self) -> Person:
        """Whom the picture on show shows."""
        return self._show.status().person

    def video(self, view: View, codec: VideoCodec) -> PacketTrack:
        """A track of the picture or of its mesh condition for one viewer."""
        feed = self._video.get((view, codec))
        if feed is None:
            feed = self._video[view, codec] = self._new_feed(view, codec)
        return feed.subscribe()

    def sound(self) -> PacketTrack:
        """A track of the sound for one viewer."""
        return self._sound.subscribe()

    def keyframe_request(self, view: View, codec: VideoCodec) -> Callable[[], None]:
        """What to call when a viewer of this stream asks for a keyframe."""
        return self._video[view, codec].request_keyframe

    async def start(self) -> None:
        """Start to pump."""
        loop = asyncio.get_running_loop()
        start_ns = self._clock.now_ns()
        self._tasks = [loop.create_task(self._pump_pictures(start_ns)), loop.create_task(self._pump_sound(start_ns))]

    async def stop(self) -> None:
        """Stop to pump. Tracks stay as they are: their sessions end them."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                log.error("a pump had failed", error=repr(outcome))
        self._tasks = []
        for executor in (self._executor, self._sound_executor):
            executor.shutdown(wait=False, cancel_futures=True)

    def tick_pictures(self, play_ns: int) -> Shown | None:
        """Show what the show has for `play_ns`."""
        shown = self._show.take(play_ns)
        if shown is None:
            return None
        picture = shown.picture
        self._meter.on_shown(shown, play_ns)
        for (view, _), feed in self._video.items():
            if feed.watched:
                capture_ns = None if shown.repeat else picture.capture_ns
                if view == "picture":
                    mark = provenance.user_data(self.person)
                    feed.push(Outgoing(picture.image, play_ns, capture_ns, mark))
                else:  # the mesh is no picture of anybody
                    feed.push(Outgoing(picture.condition, play_ns, capture_ns))
        return shown

    async def tick_sound(self, play_ns: int) -> None:
        """Send 20 ms of sound, heard from `play_ns` on."""
        samples = self._show.sound(OPUS_SAMPLES, play_ns)  # also where nobody listens: the line must not fill up
        if self._sound.watched:
            await self._sound.push(samples, play_ns)

    async def _pump_pictures(self, start_ns: int) -> None:
        period_ns = round(1e9 / self._show.fps)
        tick = 0
        while True:
            await self._sleep_until(start_ns + tick * period_ns)
            missed = (self._clock.now_ns() - start_ns) // period_ns - tick
            if missed > 0:  # the loop was held up: those moments have passed
                self._meter.on_drop("server late", missed)
                tick += missed
            self.tick_pictures(start_ns + tick * period_ns)
            tick += 1

    async def _pump_sound(self, start_ns: int) -> None:
        play_ns = start_ns
        while True:
            await self._sleep_until(play_ns)
            late_ns = self._clock.now_ns() - play_ns
            if late_ns > SOUND_CATCH_UP_NS:
                play_ns += late_ns // SOUND_TICK_NS * SOUND_TICK_NS
                self._meter.on_sound_gap(late_ns)
            await self.tick_sound(play_ns)
            play_ns += SOUND_TICK_NS

    async def _sleep_until(self, due_ns: int) -> None:
        await asyncio.sleep(max(0.0, (due_ns - self._clock.now_ns()) / 1e9))

    def _new_feed(self, view: View, codec: VideoCodec) -> VideoFeed:
        rates, fps = self._rates, self._show.fps
        size, bitrate = (
            (rates.picture_size, rates.picture) if view == "picture" else (rates.condition_size, rates.condition)
        )

        def on_sent(sent: Outgoing, keyframe: bool) -> None:
            if keyframe:
                self._meter.on_keyframe(view)
            if view == "picture" and sent.capture_ns is not None:
                self._meter.on_sent(sent.capture_ns, self._clock.now_ns())

        return VideoFeed(
            lambda: VideoEncoder(codec, size, size, fps, bitrate),
            self._executor,
            on_sent=on_sent,
            on_drop=self._meter.on_drop,
        )
