"""AMASS: SMPL-X clips, whole (T, 165) or in parts, and SMPL+H clips (T, 156), as .npz files, Z up, hands absolute.

There are no expressions. SMPL+H has neither jaw nor eyes, and its betas mean another body: they are dropped. The
first frame is turned to face +Z, for people in these clips start out in any direction.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.clips.convention import PELVIS, PELVIS_SMPLH, UPRIGHT_FROM_Z_UP, build_clip, face_forward, frame_rate, turn
from engine.clips.files import read_npz
from engine.errors import InputError
from engine.pose import PoseClip
from engine.skeleton import POSE_DIMS

SMPLH_DIMS = 156  # root and body 66, hands 90
PARTS = {"root_orient": 3, "pose_body": 63, "pose_jaw": 3, "pose_eye": 6, "pose_hand": 90}  # in native order
FACE = ("pose_jaw", "pose_eye")
NAMES = ("poses", *PARTS, "trans", "betas", "mocap_frame_rate", "mocap_framerate")


def read_amass(path: Path) -> PoseClip:
    """The clip in `path`."""
    source, arrays = str(path), read_npz(path, NAMES)
    fps = frame_rate(source, arrays)
    if "trans" not in arrays:
        raise InputError(source, "trans", "shape (T, 3)", "nothing (it is missing)")
    native, smplx = _native(source, arrays)
    clip = build_clip(source, fps, native, None, arrays["trans"], arrays.get("betas") if smplx else None)
    poses, transl = turn(clip.poses, clip.transl, UPRIGHT_FROM_Z_UP, PELVIS if smplx else PELVIS_SMPLH)
    poses, transl = face_forward(poses, transl)
    return build_clip(source, fps, poses, None, transl, clip.betas)


def _native(source: str, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, bool]:
    """(T, 165) in native order, and whether the body is SMPL-X's."""
    if "poses" in arrays:
        poses = arrays["poses"]
        if poses.ndim == 2 and poses.shape[1] == POSE_DIMS:
            return poses, True
        if poses.ndim == 2 and poses.shape[1] == SMPLH_DIMS:
            return np.concatenate([poses[:, :66], np.zeros((len(poses), 9)), poses[:, 66:]], 1), False
        raise InputError(source, "poses", f"shape (T, {POSE_DIMS}) or (T, {SMPLH_DIMS})", f"shape {poses.shape}")
    smplx = any(name in arrays for name in FACE)
    parts: list[np.ndarray] = []
    for name, dims in PARTS.items():
        if name not in arrays and (name not in FACE or not parts):
            raise InputError(source, name, f"shape (T, {dims}), or an array `poses`", "nothing (it is missing)")
        part = arrays[name] if name in arrays else np.zeros((len(parts[0]), dims))
        frames = len(parts[0]) if parts else None
        if part.ndim != 2 or part.shape[1] != dims or frames not in (None, len(part)):
            raise InputError(
                source, name, f"shape ({'T' if frames is None else frames}, {dims})", f"shape {part.shape}"
            )
        parts.append(part)
    return np.concatenate(parts, 1), smplx
