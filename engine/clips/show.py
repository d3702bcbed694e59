"""SHOW: a pickle of tensors, one dict or a list of one, at 30 frames a second, in camera coordinates.

Hands are coefficients in the SMPL-X file's hand space, relative to its mean hand; without that file the coefficients
mean nothing and the hands stay relaxed. The file keeps the camera's own place apart (`camera_transl`): it is left
out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.clips.convention import UPRIGHT_FROM_CAMERA, build_clip, turn
from engine.clips.files import read_bytes
from engine.clips.hands import HandSpace
from engine.clips.unpickle import loads
from engine.errors import InputError
from engine.pose import PoseClip

FPS = 30.0
PARTS = {"global_orient": 3, "body_pose_axis": 63, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3}  # in native order


def read_show(path: Path, hands: HandSpace | None = None) -> PoseClip:
    """The clip in `path`; `hands` is the space of its hand coefficients (default: our relaxed hand)."""
    source = str(path)
    value = loads(source, read_bytes(path))
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise InputError(source, "pickle", "a dict, or a list of one", type(value).__name__)
    frames = len(_rows(source, value, "global_orient", 3))
    native = [_rows(source, value, name, dims, frames) for name, dims in PARTS.items()]
    left, right = (_rows(source, value, f"{side}_hand_pose", None, frames) for side in ("left", "right"))
    native.append((hands or HandSpace.relaxed()).absolute(source, left, right))
    expressions, transl = (_rows(source, value, "expression", None, frames), _rows(source, value, "transl", 3, frames))
    betas = np.asarray(value.get("betas", np.zeros(0)))
    clip = build_clip(source, FPS, np.concatenate(native, 1), expressions, transl, betas)
    poses, transl = turn(clip.poses, clip.transl, UPRIGHT_FROM_CAMERA)
    return build_clip(source, FPS, poses, clip.expressions, transl, clip.betas)


def _rows(source: str, values: dict[Any, Any], name: str, dims: int | None, frames: int | None = None) -> np.ndarray:
    """The array `name` as (T, dims): SHOW writes some of them as (T, 1, dims)."""
    array = values.get(name)
    wanted = f"shape ({'T' if frames is None else frames}, {'n' if dims is None else dims})"
    if not isinstance(array, np.ndarray):
        raise InputError(source, name, wanted, "nothing (it is missing)" if array is None else type(array).__name__)
    rows = array[:, 0] if array.ndim == 3 and array.shape[1] == 1 else array
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or dims not in (None, rows.shape[1]):
        raise InputError(source, name, wanted, f"{array.dtype} of shape {array.shape}")
    if frames not in (None, len(rows)):
        raise InputError(source, name, wanted, f"shape {array.shape}")
    return rows
