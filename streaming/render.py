"""A clip through the engine to a video file: every pose becomes a picture, however long that takes.

It knows containers and codecs, not what paints the pictures. A render that fails or is interrupted leaves no file.
Every file says that its pictures are generated: in its metadata, and in the stream before each keyframe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import av
import numpy as np

from engine.avatar import Person
from engine.errors import InputError
from engine.live import LiveEngine
from engine.picture import Picture
from engine.pose import PoseClip, PoseFrame
from engine.pose_log import PoseLog
from engine.resample import resample
from streaming import h264, provenance
from streaming.audio import fitted
from streaming.messages import SAMPLE_RATE

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
QUALITY = {"crf": "18", "preset": "fast"}  # visually close to lossless
XMP_BOX = UUID("be7acfcb-97a9-42e8-9c71-999491e3afac")  # of XMP in MP4 (XMP specification, part 3)
BT601 = 6  # the matrix that the conversion from RGB uses; said in the file, so that no player has to guess


class Painter(Protocol):
    """What rendering needs of an engine."""

    fps: float
    person: Person  # whom it paints

    def feed(self, frame: PoseFrame) -> list[Picture]: ...

    def flush(self) -> list[Picture]: ...

    def reset(self) -> None: ...


def render(
    engine: Painter,
    clip: PoseClip,
    audio: np.ndarray | None,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Paint `clip` at the engine's rate into `out` (.mp4, .mov or .mkv; H.264, and AAC where there is sound).

    `audio`: (n,) int16 mono at 48 kHz from the clip's first frame on, cut or padded to the picture's length, or None.
    `progress` is called with (pictures done, pictures in all). InputError where `out` cannot be written.
    """
    poses = resample(clip, engine.fps)
    sound = None if audio is None else fitted(audio, round(len(poses) / engine.fps * SAMPLE_RATE))
    engine.reset()
    _write(engine, enumerate(_pictures(engine, poses)), sound, out, lambda done: progress(done, len(poses)))


def render_log(
    engine: LiveEngine,
    log: PoseLog,
    audio: np.ndarray | None,
    out: Path,
    seconds: float | None = None,
    force: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Paint what left live while `log` was recorded, each picture shown from its pose's time on, like `render`.

    `seconds`: only the first so many. `audio` begins with the first picture and ends with the last one. `force`: also
    where the engine is another. `progress` is called with the pictures done. InputError also where nothing left.
    """
    pictures = engine.replay(log, force)
    first = next(pictures, None)
    if first is None:
        raise InputError(log.where, "pictures", "at least one that left", "none")
    start_ns = first.capture_ns
    shown: Iterator[Picture] = chain([first], pictures)
    if seconds is not None:
        shown = takewhile(lambda picture: picture.capture_ns - start_ns < seconds * 1e9, shown)
    _write(engine, in_time(shown, engine.fps), audio, out, progress)


def in_time(pictures: Iterable[Picture], fps: float) -> Iterator[tuple[int, Picture]]:
    """Pictures and the ticks at `fps` at which they were due: the first at 0, no two at one."""
    start_ns, tick = None, -1
    for picture in pictures:
        start_ns = picture.capture_ns if start_ns is None else start_ns
        tick = max(tick + 1, round((picture.capture_ns - start_ns) / 1e9 * fps))
        yield tick, picture


def _write(
    engine: Painter,
    pictures: Iterable[tuple[int, Picture]],
    sound: np.ndarray | None,
    out: Path,
    progress: Callable[[int], None],
) -> None:
    """A whole file of `pictures` and the ticks at which they are shown, or none."""
    with _whole_file(out) as (half, container_format):
        with av.open(str(half), "w", format=container_format) as container:
            container.metadata.update(provenance.tags(engine.person, out.stem))
            _encode(
                container,
                pictures,
                engine.fps,
                sound,
                provenance.user_data(engine.person),
                progress,
            )
        if container_format == "mp4":  # where FFmpeg writes no XMP by itself
            with half.open("ab") as file:
                file.write(_box(XMP_BOX, provenance.xmp(engine.person).encode()))


def _pictures(engine: Painter, poses: PoseClip) -> Iterator[Picture]:
    for frame in poses.frames():
        yield from engine.feed(frame)
    yield from engine.flush()


def _encode(
    container: Any,
    pictures: Iterable[tuple[int, Picture]],
    fps: float,
    sound: np.ndarray | None,
    mark: bytes,
    progress: Callable[[int], None],
) -> None:
    """Mux pictures and sound side by side, the sound always just ahead of the picture it belongs to."""
    rate = Fraction(fps).limit_denominator(1001)
    video, track, end = None, None, 0
    for done, (tick, picture) in enumerate(pictures):
        if video is None:
            video = _video_stream(container, picture.image, rate)
            track = _Track(container, sound) if sound is not None else None
        end = round((tick + 1) / fps * SAMPLE_RATE)
        if track is not None:
            track.write_until(end)
        frame = av.VideoFrame.from_ndarray(picture.image, format="rgb24")
        frame.pts, frame.time_base = tick, 1 / rate
        container.mux([_marked(packet, mark) for packet in video.encode(frame)])
        progress(done + 1)
    if video is not None:
        container.mux([_marked(packet, mark) for packet in video.encode()])
    if track is not None:
        track.close(end)


def _video_stream(container: Any, image: np.ndarray, rate: Fraction) -> Any:
    stream = container.add_stream("libx264", rate=rate, options=QUALITY)
    stream.height, stream.width = image.shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = 1 / rate
    stream.codec_context.colorspace = BT601
    stream.codec_context.color_range = 1  # limited
    return stream


def _marked(packet: Any, mark: bytes) -> Any:
    """The packet, with the NAL unit `mark` in it where it is a keyframe."""
    if not packet.is_keyframe:
        return packet
    marked = av.Packet(h264.before_picture(bytes(packet), mark))
    marked.stream, marked.time_base = packet.stream, packet.time_base
    marked.pts, marked.dts, marked.duration = packet.pts, packet.dts, packet.duration
    marked.is_keyframe = True
    return marked


def _box(kind: UUID, content: bytes) -> bytes:
    """A box of a kind of its own at the end of a file (ISO 14496-12, `uuid`)."""
    return (24 + len(content)).to_bytes(4, "big") + b"uuid" + kind.bytes + content


class _Track:
    """The sound track, written piece by piece."""

    CHUNK = 1024  # samples of an AAC frame

    def __init__(self, container: Any, samples: np.ndarray) -> None:
        self._container, self._samples, self._done = container, samples, 0
        self._stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        self._stream.bit_rate = 128_000

    def write_until(self, sample: int) -> None:
        """Write up to `sample`, and on to the end of a chunk."""
        while self._done < min(sample, len(self._samples)):
            chunk = self._samples[self._done : self._done + self.CHUNK]
            frame = av.AudioFrame.from_ndarray(chunk[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = (
                SAMPLE_RATE,
                self._done,
                Fraction(1, SAMPLE_RATE),
            )
            self._container.mux(self._stream.encode(frame))
            self._done += len(chunk)

    def close(self, sample: int) -> None:
        """Write up to `sample`, and what the encoder still holds."""
        self.write_until(sample)
        self._container.mux(self._stream.encode())


@contextmanager
def _whole_file(out: Path) -> Iterator[tuple[Path, str]]:
    """A hidden file beside `out` and its format; it becomes `out` at the end, or vanishes where anything went wrong."""
    container_format = CONTAINERS.get(out.suffix.lower())
    if container_format is None:
        raise InputError(
            str(out),
            "file name",
            f"one that ends in {', '.join(CONTAINERS)}",
            repr(out.suffix),
        )
    if not out.parent.is_dir():
        raise InputError(str(out), "folder", "a folder that is there", f"no {out.parent}")
    if out.is_dir():
        raise InputError(str(out), "file name", "a file", "a folder")
    half = out.with_name(f".{out.name}.part")
    try:
        half.touch()
    except OSError as error:
        raise InputError(str(out), "folder", "a folder to write to", str(error)) from None
    try:
        yield half, container_format
        half.replace(out)
    finally:
        half.unlink(missing_ok=True)
