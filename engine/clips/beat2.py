"""BEAT2 and EMAGE: an .npz with native poses, FLAME expressions, translation and betas, Y up, at its own rate.

Hands are taken as absolute. Read off a real clip of BEAT2 (1,906 frames): the flexion of the middle and end joints of
index, middle and ring finger ends within a degree of zero on both hands and reaches 55 degrees the other way. That is a
straight finger's stop at the flat hand; relative to a curled mean hand the stop would lie 10 to 40 degrees beyond zero.
Our own clips are written in this format.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.clips.convention import build_clip, frame_rate
from engine.clips.files import read_npz, write_npz
from engine.errors import InputError
from engine.pose import PoseClip
from engine.skeleton import POSE_DIMS

NAMES = ("poses", "expressions", "trans", "betas", "mocap_frame_rate", "mocap_framerate")


def read_beat2(path: Path) -> PoseClip:
    """The clip in `path`."""
    source, arrays = str(path), read_npz(path, NAMES)
    for name in ("poses", "expressions", "trans"):
        if name not in arrays:
            raise InputError(source, name, "an array", "nothing (it is missing)")
    poses = arrays["poses"]
    if poses.ndim != 2 or poses.shape[1] != POSE_DIMS:
        raise InputError(source, "poses", f"shape (T, {POSE_DIMS})", f"shape {poses.shape}")
    return build_clip(
        source, frame_rate(source, arrays), poses, arrays["expressions"], arrays["trans"], arrays.get("betas")
    )


def write_beat2(path: Path, clip: PoseClip) -> None:
    """Write `clip` to `path` (.npz, float32, compressed), whole or not at all. Unknown betas stay empty."""
    betas = np.pad(clip.betas, (0, 300 - len(clip.betas))) if len(clip.betas) else clip.betas
    arrays = {"betas": betas, "poses": clip.poses, "expressions": clip.expressions, "trans": clip.transl}
    names = {"model": np.array("smplx2020"), "gender": np.array("neutral")}
    write_npz(path, {**arrays, **names, "mocap_frame_rate": np.array(clip.fps)})
