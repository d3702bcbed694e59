"""TalkSHOW's results: one .npy array (T, 265) at 30 frames a second, in camera coordinates, hands relative to the mean.

The file knows neither its rate nor translation nor betas: the person stays where the body model has them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.clips.convention import UPRIGHT_FROM_CAMERA, build_clip, turn
from engine.clips.files import read_npy
from engine.clips.hands import HandSpace
from engine.errors import InputError
from engine.pose import PoseClip

FPS = 30.0
DIMS = 265  # jaw 3, eyes 6, root 3, body 63, hands 90, expression 100


def read_talkshow(path: Path, hands: HandSpace | None = None) -> PoseClip:
    """The clip in `path`; `hands` is what its hand poses are relative to (default: our relaxed hand)."""
    return from_array(str(path), read_npy(path), hands)


def from_array(source: str, array: np.ndarray, hands: HandSpace | None = None) -> PoseClip:
    """The clip in an array (T, 265), or (1, T, 265) as a batch of one."""
    rows = array[0] if array.ndim == 3 and len(array) == 1 else array
    if rows.ndim != 2 or rows.shape[1] != DIMS:
        raise InputError(source, "array", f"shape (T, {DIMS})", f"shape {array.shape}")
    hand_poses = (hands or HandSpace.relaxed()).absolute(source, rows[:, 75:120], rows[:, 120:165])
    native = np.concatenate([rows[:, 9:75], rows[:, 0:9], hand_poses], 1)  # (T, 165)
    clip = build_clip(source, FPS, native, rows[:, 165:265])
    poses, _ = turn(clip.poses, clip.transl, UPRIGHT_FROM_CAMERA)
    return build_clip(source, FPS, poses, clip.expressions)
