"""Painted beside true frames, as a small video."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from bench.quality.parts import Part

LARGEST = 500_000  # bytes: it is committed anew with each making
SECONDS = 10


def side_by_side(parts: Sequence[tuple[Part, np.ndarray]], seconds: float = SECONDS) -> list[np.ndarray]:
    """(part, painted pictures) to pictures of painted beside true, from the parts whose pictures stand in a row, talk first."""
    moving = sorted((pair for pair in parts if pair[0].moves), key=lambda pair: not pair[0].name.endswith("talk"))
    pairs = (
        np.concatenate([picture, part.clip.frames[index]], axis=1)
        for part, painted in moving
        for picture, index in zip(painted, part.indices, strict=True)
    )
    fps = moving[0][0].clip.fields.fps if moving else 25.0
    return [pair for _, pair in zip(range(round(seconds * fps)), pairs, strict=False)]


def write_mp4(pictures: Sequence[np.ndarray], fps: float, path: Path, largest: int = LARGEST) -> int:
    """Write H.264 with the best quality that fits into `largest` bytes, at once or not at all; returns its size."""
    half = path.with_name(f".{path.name}.part")
    try:
        for crf in range(20, 45, 4):
            _encode(pictures, fps, half, crf)
            if half.stat().st_size <= largest:
                break
        size = half.stat().st_size
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)
    return size


def _encode(pictures: Sequence[np.ndarray], fps: float, path: Path, crf: int) -> None:
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = "painted | true; the person is synthetic"
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "medium"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for packet in _packets(stream, pictures, rate):
            container.mux(packet)


def _packets(stream: av.VideoStream, pictures: Sequence[np.ndarray], rate: Fraction) -> Iterator[av.Packet]:
    for i, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = i, 1 / rate
        yield from stream.encode(frame)
    yield from stream.encode()
