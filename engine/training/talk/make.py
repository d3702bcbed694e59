"""Makes the clip that the bundled avatar speaks: `python -m engine.training.talk.make OUT_DIR [TEXT_FILE]`.

25 frames a second, the rate at which the avatar's pictures are painted: every sample of the clip is one picture,
nothing is interpolated, and the closures of the lips are made to last a frame. Coefficients are rounded to 2^-13
(about 0.007 degrees), since trailing zeros compress well.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from engine.clips import write_clip
from engine.errors import InputError
from engine.pose import PoseClip
from engine.training.talk.gestures import talk
from engine.training.talk.speech import RATE, VOICE, speak

FPS = 25.0
BITRATE = 32_000
_STEP = 2.0**-13


def make_clip(text: str, out_dir: Path, seed: int = 0, voice: str = VOICE) -> PoseClip:
    """Write `clip.npz` (BEAT2-style motion) and `clip.opus` (speech, Ogg Opus, 48 kHz mono) to `out_dir`; return the
    motion.

    The motion is a function of text, voice and seed. Raises InputError where flite is missing or the text is empty.
    """
    speech = speak(text, voice)
    clip = talk(speech, FPS, seed)
    clip = replace(
        clip, poses=_rounded(clip.poses), expressions=_rounded(clip.expressions), transl=_rounded(clip.transl)
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    write_opus(out_dir / "clip.opus", speech.samples)
    write_clip(out_dir / "clip.npz", clip)
    return clip


def write_opus(path: Path, samples: np.ndarray) -> None:
    """Mono samples (N,) float32 at 48 kHz as Ogg Opus, put in place when it is whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".ogg")
    os.close(handle)
    whole = Path(name)
    try:
        with av.open(name, "w", format="ogg", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("libopus", rate=RATE, layout="mono")
            stream.bit_rate = BITRATE
            pcm = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
            for start in range(0, len(pcm), RATE):
                frame = av.AudioFrame.from_ndarray(pcm[None, start : start + RATE], format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = (RATE, start, Fraction(1, RATE))
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        whole.chmod(0o644)
        whole.replace(path)
    finally:
        whole.unlink(missing_ok=True)


def _rounded(values: np.ndarray) -> np.ndarray:
    out: np.ndarray = (np.round(values / _STEP) * _STEP).astype(np.float32)
    return out


def main(arguments: list[str]) -> int:
    """The command: 0, or 2 with one line on stderr for bad input."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m engine.training.talk.make OUT_DIR [TEXT_FILE]\n")
        return 2
    script = Path(arguments[1]) if len(arguments) == 2 else Path(__file__).with_name("script.txt")
    try:
        make_clip(script.read_text(encoding="utf-8"), Path(arguments[0]))
    except (InputError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
