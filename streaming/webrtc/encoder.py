"""Pictures and sound to H.264, VP8 and Opus, and the few things that aiortc needs to send packets encoded elsewhere.

aiortc encodes once per viewer, within fixed bitrate limits and in the event loop's own thread pool. Here one encoder
serves every viewer of a stream, and aiortc only packs its packets into RTP. Whatever reaches into private parts of
aiortc and aioice is in the last section of this file. It knows nothing of sessions or clocks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import av
import numpy as np
from aioice.ice import get_host_addresses
from aiortc import RTCPeerConnection, RTCRtpSender
from av.audio.codeccontext import AudioCodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import Colorspace, VideoReformatter

from streaming import h264

VideoCodec = Literal["h264", "vp8"]

VIDEO_CLOCK = 90_000  # RTP clock of every video codec (RFC 6184 section 8.2.1, RFC 7741 section 6.2.1)
AUDIO_CLOCK = 48_000  # RTP clock of Opus whatever the source (RFC 7587 section 4.1)
OPUS_SAMPLES = 960  # 20 ms

KEYFRAME_INTERVAL = 3000  # frames; viewers ask for keyframes when they need one, so the periodic one is rare


@dataclass(frozen=True, slots=True)
class Encoded:
    """One encoded picture or 20 ms of sound. `pts` is in ticks of its RTP clock, unwrapped."""

    data: bytes
    pts: int
    keyframe: bool


class VideoEncoder:
    """RGB pictures of any size in, one encoded picture of a fixed size out at once: no lookahead, no B-frames.

    Not thread-safe: one caller at a time.
    """

    def __init__(self, codec: VideoCodec, width: int, height: int, fps: float, bitrate: int) -> None:
        self._has_marks = codec == "h264"  # VP8 has no place for such a thing
        self._context = _open(codec, width, height, fps, bitrate)
        self._scaler = VideoReformatter()
        self._size = (width, height)
        # Browsers take unmarked H.264 for BT.709 and VP8, which cannot be marked, for BT.601 (RFC 6386 section 9.2).
        self._colours = Colorspace.ITU709 if codec == "h264" else Colorspace.ITU601
        self._count = 0

    def encode(self, image: np.ndarray, pts: int, keyframe: bool = False, mark: bytes = b"") -> Encoded | None:
        """Encode `image` (H, W, 3) uint8 RGB, C-contiguous. None where the rate control skipped the picture.

        `mark`: a NAL unit that H.264 carries before the picture where it is a keyframe.
        """
        frame = av.VideoFrame.from_numpy_buffer(image, format="rgb24")
        width, height = self._size
        scaled = self._scaler.reformat(
            frame, width=width, height=height, format="yuv420p", dst_colorspace=self._colours
        )
        # The codec counts frames, the RTP clock time: a late tick is no lower frame rate to the rate control.
        scaled.pts, scaled.time_base = self._count, self._context.time_base
        scaled.pict_type = PictureType.I if keyframe else PictureType.NONE
        self._count += 1
        packets = self._context.encode(scaled)
        if not packets:
            return None
        data, is_keyframe = b"".join(map(bytes, packets)), any(packet.is_keyframe for packet in packets)
        marked = is_keyframe and self._has_marks
        return Encoded(h264.before_picture(data, mark) if marked else data, pts, is_keyframe)


class SoundEncoder:
    """Mono 48 kHz speech in, Opus out, 20 ms at a time. Not thread-safe."""

    def __init__(self, bitrate: int = 64_000) -> None:
        context = av.CodecContext.create("libopus", "w")
        assert isinstance(context, AudioCodecContext)
        context.bit_rate = bitrate
        context.format, context.layout, context.sample_rate = "s16", "mono", AUDIO_CLOCK
        context.time_base = Fraction(1, AUDIO_CLOCK)
        # In-band error correction, sized for a little loss: browsers offer it, and speech gains most from it.
        context.options = {"application": "voip", "frame_duration": "20", "fec": "1", "packet_loss": "5"}
        self._context = context
        self._count = 0

    def encode(self, samples: np.ndarray, pts: int) -> Encoded | None:
        """Encode `samples` (960,) int16."""
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")  # (1, 960)
        frame.sample_rate, frame.time_base, frame.pts = AUDIO_CLOCK, self._context.time_base, self._count
        self._count += len(samples)
        packets = self._context.encode(frame)
        return Encoded(bytes(packets[0]), pts, True) if packets else None


def _open(codec: VideoCodec, width: int, height: int, fps: float, bitrate: int) -> VideoCodecContext:
    """An encoder for live pictures: constant bitrate, half a second of slack, one thread: inference needs the rest."""
    context = av.CodecContext.create("libx264" if codec == "h264" else "libvpx", "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.bit_rate = bitrate
    context.framerate = Fraction(fps).limit_denominator(1001)
    context.time_base = 1 / context.framerate
    context.gop_size = KEYFRAME_INTERVAL
    context.thread_count = 1
    rate = {"maxrate": str(bitrate), "bufsize": str(bitrate // 2)}
    if codec == "h264":
        context.profile = "Baseline"
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1  # BT.709, limited
        context.options = rate | {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "level": "31",
            "forced-idr": "1",
            "sc_threshold": "0",  # a cut may be blurred for a moment; an unasked keyframe would stall every viewer
        }
    else:
        context.qmin, context.qmax = 2, 56
        context.options = rate | {
            "minrate": str(bitrate),
            "deadline": "realtime",
            "cpu-used": "12",
            "lag-in-frames": "0",
            "static-thresh": "1",
            "overshoot-pct": "15",
            "undershoot-pct": "100",
        }
    return context


# -- what aiortc and aioice do not offer


def on_keyframe_request(sender: RTCRtpSender, callback: Callable[[], None]) -> None:
    """Call `callback` when the viewer asks for a keyframe (RTCP PLI or FIR); aiortc's own encoder is not told."""
    sender._send_keyframe = callback


def set_stream_id(sender: RTCRtpSender, stream_id: str) -> None:
    """Name the media stream (msid) of a track: browsers keep sound in step with the picture of the same stream."""
    sender._stream_id = stream_id


def set_host_addresses(pc: RTCPeerConnection, addresses: Sequence[str]) -> None:
    """Gather host candidates on `addresses` (IP literals). To be called before `setLocalDescription`.

    aioice never offers 127.0.0.1, so a machine without a network could not show its own page.
    """
    for transceiver in pc.getTransceivers():
        connection = transceiver.receiver.transport.transport._connection
        gather = type(connection).get_component_candidates
        connection.get_component_candidates = partial(_gather_on, gather, connection, list(addresses))


async def _gather_on(
    gather: Callable[..., Awaitable[Any]], connection: Any, hosts: list[str], component: int, addresses: list[str]
) -> Any:
    """`gather` on `hosts` instead of the `addresses` that aioice found."""
    return await gather(connection, component, hosts)


def host_addresses(loopback: bool) -> list[str]:
    """This machine's addresses as aioice finds them, with 127.0.0.1 in front where the viewer is on this machine."""
    found = get_host_addresses(use_ipv4=True, use_ipv6=True)
    return ["127.0.0.1", *found] if loopback else found
