"""SHOW: a pickle of tensors, one dict or a list of one, at 30 frames a second, in camera coordinates.

Hands are coefficients in the SMPL-X file's hand space, relative to its mean hand; without that file the coefficients
mean nothing and the hands stay relaxed. The camera, which the file keeps apart, is read on its own: `read_show_camera`.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class ShowCamera:
    """What a SHOW file says about the camera that saw the video."""

    width: int  # of the video's pictures
    height: int
    focal: float  # pixels
    centre: tuple[float, float]  # principal point, pixels
    translation: tuple[float, float, float]  # metres, as engine.condition.authors_camera takes it


def read_show(path: Path, hands: HandSpace | None = None) -> PoseClip:
    """The clip in `path`; `hands` is the space of its hand coefficients (default: our relaxed hand)."""
    source, value = str(path), _load(path)
    frames = len(_rows(source, value, "global_orient", 3))
    native = [_rows(source, value, name, dims, frames) for name, dims in PARTS.items()]
    left, right = (_rows(source, value, f"{side}_hand_pose", None, frames) for side in ("left", "right"))
    native.append((hands or HandSpace.relaxed()).absolute(source, left, right))
    expressions, transl = (_rows(source, value, "expression", None, frames), _rows(source, value, "transl", 3, frames))
    betas = np.asarray(value.get("betas", np.zeros(0)))
    clip = build_clip(source, FPS, np.concatenate(native, 1), expressions, transl, betas)
    poses, transl = turn(clip.poses, clip.transl, UPRIGHT_FROM_CAMERA)
    return build_clip(source, FPS, poses, clip.expressions, transl, clip.betas)


def read_show_camera(path: Path) -> ShowCamera:
    """The camera in `path`. InputError where the file has none."""
    source, value = str(path), _load(path)
    width, height = (_numbers(source, value, name, 1)[0] for name in ("width", "height"))
    focal = _numbers(source, value, "focal_length", 1)[0]
    if not (width >= 1 and height >= 1 and focal > 0):
        raise InputError(
            source, "camera", "positive width, height and focal_length", f"{width:g}, {height:g}, {focal:g}"
        )
    x, y = _numbers(source, value, "center", 2) if "center" in value else (width / 2, height / 2)
    tx, ty, tz = _numbers(source, value, "camera_transl", 3)
    return ShowCamera(round(width), round(height), focal, (x, y), (tx, ty, tz))


def _load(path: Path) -> dict[Any, Any]:
    value = loads(str(path), read_bytes(path))
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise InputError(str(path), "pickle", "a dict, or a list of one", type(value).__name__)
    return value


def _numbers(source: str, values: dict[Any, Any], name: str, count: int) -> list[float]:
    wanted = "a finite number" if count == 1 else f"{count} finite numbers"
    if name not in values:
        raise InputError(source, name, wanted, "nothing (it is missing)")
    array = np.asarray(values[name])
    if array.dtype.kind not in "fiu" or array.size != count or not np.isfinite(array).all():
        raise InputError(source, name, wanted, f"{array.dtype} of shape {array.shape}")
    return [float(number) for number in array.reshape(-1)]


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
