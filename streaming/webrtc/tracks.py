"""One encoding, many viewers: feeds encode a stream once and hand the packets to the track of each viewer.

A feed works only while somebody watches. It knows neither sessions nor where pictures come from; time comes in with
each picture.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import structlog
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from streaming.webrtc.encoder import AUDIO_CLOCK, VIDEO_CLOCK, Encoded, SoundEncoder, VideoEncoder

KEYFRAME_GAP_NS = (
    500_000_000  # keyframes are asked for by every viewer who joins or loses a packet; no more than two a second
)
BACKLOG = 50  # packets a viewer may lag behind (2 s of pictures, 1 s of sound) before its queue starts anew

log = structlog.get_logger()


class PacketTrack(MediaStreamTrack):  # type: ignore[misc]
    """What aiortc reads for one viewer: packets that a feed has encoded.

    A viewer that falls behind loses its backlog and, for video, resumes at the next keyframe; others do not notice.
    """

    def __init__(
        self, kind: str, clock: int, leave: Callable[[PacketTrack], None], need_keyframe: Callable[[], None]
    ) -> None:
        super().__init__()
        self.kind = kind
        self.dropped = 0
        self._time_base = Fraction(1, clock)
        self._leave = leave
        self._need_keyframe = need_keyframe
        self._queue: deque[Encoded] = deque()
        self._waiting_for_keyframe = kind == "video"
        self._ready = asyncio.Event()

    def put(self, packet: Encoded) -> None:
        """Queue a packet for this viewer."""
        if len(self._queue) >= BACKLOG:
            self.dropped += len(self._queue)
            self._queue.clear()
            self._waiting_for_keyframe = self.kind == "video"
        if self._waiting_for_keyframe and not packet.keyframe:
            self.dropped += 1
            self._need_keyframe()
            return
        self._waiting_for_keyframe = False
        self._queue.append(packet)
        self._ready.set()

    async def recv(self) -> av.Packet:
        """The next packet, its pts in ticks of the RTP clock. Raises MediaStreamError once the track has ended."""
        while not self._queue:
            if self.readyState != "live":
                raise MediaStreamError
            self._ready.clear()
            await self._ready.wait()
        encoded = self._queue.popleft()
        packet = av.Packet(encoded.data)
        packet.pts, packet.time_base = encoded.pts, self._time_base
        return packet

    def stop(self) -> None:
        """End the track and leave the feed."""
        if self.readyState == "live":
            super().stop()
            self._leave(self)
            self._queue.clear()
            self._ready.set()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A picture on its way to viewers."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    play_ns: int  # when it is shown: its RTP time
    capture_ns: int | None = None  # of its pose; None for a repeat, which has no delay to speak of
    mark: bytes = b""  # what H.264 says about it, see `VideoEncoder.encode`


class VideoFeed:
    """One video stream in one codec. Of the pictures that come while the encoder is busy, the newest wins."""

    def __init__(
        self,
        new_encoder: Callable[[], VideoEncoder],
        executor: Executor,
        *,
        on_sent: Callable[[Outgoing, bool], None] = lambda shown, keyframe: None,
        on_drop: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._new_encoder = new_encoder
        self._executor = executor
        self._on_sent = on_sent  # (picture, keyframe) after it was handed to the viewers
        self._on_drop = on_drop
        self._tracks: set[PacketTrack] = set()
        self._encoder: VideoEncoder | None = None
        self._newest: Outgoing | None = None
        self._task: asyncio.Task[None] | None = None
        self._keyframe_wanted = False
        self._keyframe_ns: int | None = None
        self._mark = b""  # of the last keyframe

    @property
    def watched(self) -> bool:
        """Whether somebody watches this feed."""
        return bool(self._tracks)

    def subscribe(self) -> PacketTrack:
        """A track for one more viewer; its first packet is a keyframe."""
        track = PacketTrack("video", VIDEO_CLOCK, self._leave, self.request_keyframe)
        self._tracks.add(track)
        self.request_keyframe()
        return track

    def request_keyframe(self) -> None:
        """Make a keyframe as soon as the last one is half a second old."""
        self._keyframe_wanted = True

    def push(self, shown: Outgoing) -> None:
        """Encode `shown` and send it to every viewer. Returns at once."""
        if not self._tracks:
            return
        if self._newest is not None:
            self._on_drop("encoder busy")
        self._newest = shown
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._newest is not None and self._tracks:
            shown, self._newest = self._newest, None
            # Another mark is another person: the viewers are told with that person's first picture.
            keyframe = self._keyframe_due(shown.play_ns) or shown.mark != self._mark
            pts = rtp_time(shown.play_ns, VIDEO_CLOCK)
            try:
                encoded = await loop.run_in_executor(self._executor, self._encode, shown, pts, keyframe)
            except av.FFmpegError as error:  # a broken encoder is replaced; the viewers stay
                log.error("video encoder failed, starting another", error=str(error))
                self._on_drop("encoder failed")
                self._encoder = None
                self.request_keyframe()
                continue
            if encoded is None:
                self._on_drop("rate control")
                continue
            if encoded.keyframe:
                self._keyframe_ns, self._keyframe_wanted = shown.play_ns, False
                self._mark = shown.mark
            for track in tuple(self._tracks):
                track.put(encoded)
            self._on_sent(shown, encoded.keyframe)
        if not self._tracks:
            self._encoder = None
            self._newest = None

    def _encode(self, shown: Outgoing, pts: int, keyframe: bool) -> Encoded | None:
        if self._encoder is None:
            self._encoder = self._new_encoder()
        return self._encoder.encode(shown.image, pts, keyframe, shown.mark)

    def _keyframe_due(self, now_ns: int) -> bool:
        return self._keyframe_wanted and (self._keyframe_ns is None or now_ns - self._keyframe_ns >= KEYFRAME_GAP_NS)

    def _leave(self, track: PacketTrack) -> None:
        self._tracks.discard(track)


class SoundFeed:
    """The one sound of the show as Opus, for every viewer."""

    def __init__(self, executor: Executor, bitrate: int) -> None:
        self._executor = executor
        self._encoder = SoundEncoder(bitrate)
        self._tracks: set[PacketTrack] = set()

    @property
    def watched(self) -> bool:
        """Whether somebody listens."""
        return bool(self._tracks)

    def subscribe(self) -> PacketTrack:
        """A track for one more listener."""
        track = PacketTrack("audio", AUDIO_CLOCK, self._tracks.discard, lambda: None)
        self._tracks.add(track)
        return track

    async def push(self, samples: np.ndarray, play_ns: int) -> None:
        """Encode 20 ms, `samples` (960,) int16, heard from `play_ns` on, and send it to every listener."""
        loop = asyncio.get_running_loop()
        pts = rtp_time(play_ns, AUDIO_CLOCK)
        encoded = await loop.run_in_executor(self._executor, self._encoder.encode, samples, pts)
        if encoded is not None:
            for track in tuple(self._tracks):
                track.put(encoded)


def rtp_time(play_ns: int, clock: int) -> int:
    """`play_ns` in ticks of an RTP clock. Sound and pictures share `play_ns`, so they cannot drift apart."""
    return play_ns * clock // 1_000_000_000
