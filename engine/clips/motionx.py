"""Motion-X: one .npy array (T, 322) at 30 frames a second, no eyes, 50 expression coefficients.

Its parts come from many data sets and do not agree on which way is up, so that is read off each clip's own pelvis, as
is the heading. Hands are absolute: its tools draw them with the flat hand as the mean, and its AMASS part is AMASS's
as it was.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.clips.convention import UPRIGHT_FROM_CAMERA, UPRIGHT_FROM_Z_UP, build_clip, face_forward, turn
from engine.clips.files import read_npy
from engine.errors import InputError
from engine.pose import PoseClip
from engine.rotation import axis_angle_to_quaternion, rotate

FPS = 30.0
DIMS = 322  # root 3, body 63, hands 90, jaw 3, expression 50, face shape 100, translation 3, betas 10


def read_motionx(path: Path) -> PoseClip:
    """The clip in `path`."""
    return from_array(str(path), read_npy(path))


def from_array(source: str, rows: np.ndarray) -> PoseClip:
    """The clip in an array (T, 322)."""
    if rows.ndim != 2 or rows.shape[1] != DIMS:
        raise InputError(source, "array", f"shape (T, {DIMS})", f"shape {rows.shape}")
    eyes = np.zeros((len(rows), 6))
    native = np.concatenate([rows[:, 0:66], rows[:, 156:159], eyes, rows[:, 66:156]], 1)  # (T, 165)
    clip = build_clip(source, FPS, native, rows[:, 159:209], rows[:, 309:312], rows[:1, 312:322])
    poses, transl = clip.poses, clip.transl
    up = rotate(axis_angle_to_quaternion(poses[:, :3]), (0.0, 1.0, 0.0)).mean(0)
    if up[2] > max(abs(up[0]), abs(up[1])):
        poses, transl = turn(poses, transl, UPRIGHT_FROM_Z_UP)
    elif -up[1] > max(abs(up[0]), abs(up[2])):
        poses, transl = turn(poses, transl, UPRIGHT_FROM_CAMERA)
    poses, transl = face_forward(poses, transl)
    return build_clip(source, FPS, poses, clip.expressions, transl, clip.betas)
