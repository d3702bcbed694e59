"""Sound from any file that FFmpeg reads, in the one form that streaming uses: 48 kHz, mono, int16."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from engine.errors import InputError
from streaming.messages import SAMPLE_RATE


def read_audio(path: Path) -> np.ndarray:
    """The whole first audio track of `path`: (n,) int16 at SAMPLE_RATE, mixed. InputError where there is none."""
    where = str(path)
    if not path.is_file():
        raise InputError(where, "file", "a sound file", "no such file")
    try:
        with av.open(where) as container:
            if not container.streams.audio:
                raise InputError(where, "audio", "a sound track", "none")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            parts = [
                out.to_ndarray()[0] for frame in container.decode(audio=0) for out in resampler.resample(frame)
            ] + [out.to_ndarray()[0] for out in resampler.resample(None)]
    except (av.FFmpegError, OSError) as error:
        raise InputError(where, "audio", "a sound file that FFmpeg reads", str(error)) from None
    samples = np.concatenate(parts) if parts else np.zeros(0, np.int16)
    if not len(samples):
        raise InputError(where, "audio", "at least one sample", "none")
    return samples


def fitted(samples: np.ndarray, count: int) -> np.ndarray:
    """`samples` (n,) cut, or followed by silence, to `count`."""
    return np.pad(samples[:count], (0, max(0, count - len(samples))))
