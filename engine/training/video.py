"""Videos of clips: lossless ones of our own, and any that FFmpeg reads. It knows pictures and files, not people."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from engine.errors import InputError
from engine.training.arrays import Rows, check_room, create

CODECS = {  # by the number of an array's dimensions: pictures, mattes; both come back bit for bit
    4: ("libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast"}),
    3: ("ffv1", "gray", {"level": "3", "slicecrc": "1"}),
}


@dataclass(frozen=True)
class Facts:
    """What a video file is, counted by its packets, not by what its header says."""

    width: int
    height: int
    fps: float
    pictures: int


def examine(path: Path) -> Facts:
    """The facts of a video. InputError where it is missing, damaged or has no picture."""
    if not path.is_file():
        raise InputError(str(path), "file", "a video", "no such file")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(str(path), "streams", "a video", "none")
            stream = container.streams.video[0]
            pictures = sum(packet.size > 0 for packet in container.demux(stream))
            rate = stream.average_rate or stream.guessed_rate
            if not pictures or not rate:
                raise InputError(str(path), "pictures", "at least one, and a frame rate", "none")
            return Facts(stream.width, stream.height, float(rate), pictures)
    except av.FFmpegError as error:
        raise InputError(str(path), "file", "a whole video", str(error)) from None


def pictures(path: Path, gray: bool = False) -> Iterator[np.ndarray]:
    """The pictures in order: (H, W, 3), or (H, W) where `gray`, uint8. InputError where one is damaged."""
    count = 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                if frame.is_corrupt:
                    raise InputError(str(path), f"picture {count}", "an undamaged one", "one that FFmpeg had to mend")
                yield frame.to_ndarray(format="gray" if gray else "rgb24")
                count += 1
    except av.FFmpegError as error:
        raise InputError(str(path), f"picture {count}", "an undamaged one", str(error)) from None


def pack(
    array: Path, video: Path, fps: float, comment: str, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write a .npy of pictures (N, H, W, 3) or mattes (N, H, W), uint8, as a lossless .mkv, whole or not at all."""
    rows = np.load(array, mmap_mode="r")
    codec, layout, options = CODECS[rows.ndim]
    half = video.with_name(f".{video.name}.part")
    try:
        with av.open(str(half), "w", format="matroska") as container:
            container.metadata["comment"] = comment
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.height, stream.width, stream.pix_fmt = rows.shape[1], rows.shape[2], layout
            for i, row in enumerate(rows):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(row), format=layout)))
                if progress:
                    progress(i + 1, len(rows))
            container.mux(stream.encode())
        os.replace(half, video)
    except OSError as error:  # FFmpeg's errors are of this kind too
        raise InputError(str(video), "file", "room on the disc", str(error)) from None
    finally:
        half.unlink(missing_ok=True)


def unpack(
    video: Path,
    array: Path,
    size: int,
    *,
    gray: bool = False,
    cut: Callable[[np.ndarray], np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a video's pictures, or what `cut` makes of each, as a .npy (N, size, size, 3), or (N, size, size) where `gray`.

    The array is written whole or not at all. InputError where pictures are damaged, missing or of another size.
    """
    facts = examine(video)
    if cut is None and (facts.width, facts.height) != (size, size):
        raise InputError(str(video), "size", f"{size}x{size}", f"{facts.width}x{facts.height}")
    shape = (facts.pictures, size, size) if gray else (facts.pictures, size, size, 3)
    half = array.with_name(f".{array.name}.part")
    check_room(array.parent, int(np.prod(shape)))
    count = 0
    try:
        create(half, shape, np.uint8)
        with Rows(half) as rows:
            for picture in pictures(video, gray):
                if count < facts.pictures:
                    rows[count] = cut(picture) if cut else picture
                count += 1
                if progress:
                    progress(min(count, facts.pictures), facts.pictures)
        if count != facts.pictures:
            raise InputError(str(video), "pictures", f"{facts.pictures}, as it has packets", f"{count}; is it cut off?")
        os.replace(half, array)
    finally:
        half.unlink(missing_ok=True)
