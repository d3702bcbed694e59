"""From a file's arrays to a clip in the project's convention: the checks and turns that several formats share.

The root turns about the pelvis, which SMPL-X puts beside the origin, so turning the world also moves the translation by
what the pelvis would move: for that the mean body's pelvis is used here (a shaped body's is off by a centimetre or so).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from engine.errors import InputError
from engine.pose import PoseClip
from engine.rotation import about, axis_angle_to_quaternion, multiply, quaternion_to_axis_angle, rotate
from engine.skeleton import EXPRESSION_DIMS, ROOT

PELVIS = np.array([0.003, -0.351, 0.012])  # metres, SMPL-X mean shape, zero translation
PELVIS_SMPLH = np.array([-0.002, -0.223, 0.028])  # SMPL+H likewise
MOST_RADIANS = 8.0 * np.pi  # a pose beyond this is in degrees, or broken
MOST_METRES = 1e5
MOST_COEFFICIENT = 1e3
UPRIGHT_FROM_Z_UP = about((1.0, 0.0, 0.0), -0.5 * np.pi)
UPRIGHT_FROM_CAMERA = about((1.0, 0.0, 0.0), np.pi)  # X right, Y down, Z away: who looked into the camera looks to +Z


def build_clip(
    source: str,
    fps: float,
    poses: np.ndarray,
    expressions: np.ndarray | None = None,
    transl: np.ndarray | None = None,
    betas: np.ndarray | None = None,
) -> PoseClip:
    """A clip from arrays of any number type; missing ones become zeros. InputError names the wrong array."""
    poses = numbers(source, "poses", poses, MOST_RADIANS, "radians within 8 pi")
    if poses.ndim != 2 or len(poses) == 0:
        raise InputError(source, "poses", "shape (T, 165) with T > 0", f"shape {poses.shape}")
    frames = len(poses)
    expressions = np.zeros((frames, 0)) if expressions is None else expressions
    expressions = numbers(source, "expressions", expressions, MOST_COEFFICIENT, "coefficients within 1000")
    if expressions.ndim != 2 or len(expressions) != frames or expressions.shape[1] > EXPRESSION_DIMS:
        raise InputError(source, "expressions", f"shape ({frames}, 100 or fewer)", f"shape {expressions.shape}")
    expressions = np.pad(expressions, ((0, 0), (0, EXPRESSION_DIMS - expressions.shape[1])))
    transl = np.zeros((frames, 3)) if transl is None else transl
    betas = np.zeros(0) if betas is None else betas
    if betas.ndim == 2 and len(betas) in (1, frames):
        betas = betas[0]  # one row, or the same one for every frame
    return PoseClip(
        fps=fps,
        poses=poses,
        expressions=expressions,
        transl=numbers(source, "transl", transl, MOST_METRES, "metres within 100 km"),
        betas=numbers(source, "betas", betas, MOST_COEFFICIENT, "coefficients within 1000"),
        source=source,
    )


def frame_rate(source: str, arrays: Mapping[str, np.ndarray]) -> float:
    """The rate in frames a second, as AMASS and BEAT2 spell it. InputError where it is missing or absurd."""
    for name in ("mocap_frame_rate", "mocap_framerate"):
        if name in arrays:
            value = arrays[name]
            if value.size != 1 or value.dtype.kind not in "fiu":
                raise InputError(source, name, "one number", f"{value.dtype} of shape {value.shape}")
            rate = float(value.reshape(()))
            if not 1.0 <= rate <= 1000.0:
                raise InputError(source, name, "1 to 1000 frames a second", f"{rate:g}")
            return rate
    raise InputError(source, "mocap_frame_rate", "frames a second", "nothing (it is missing)")


def turn(
    poses: np.ndarray, transl: np.ndarray, quaternion: np.ndarray, pelvis: np.ndarray = PELVIS
) -> tuple[np.ndarray, np.ndarray]:
    """Turn the world under (T, 165) poses and (T, 3) translations about its origin, the pelvis as drawn.

    `pelvis` is where the file's own body model puts it; the result is for SMPL-X. Returns new arrays.
    """
    turned = poses.copy()
    turned[:, ROOT] = quaternion_to_axis_angle(multiply(quaternion, axis_angle_to_quaternion(poses[:, ROOT])))
    return turned, rotate(quaternion, transl + pelvis) - PELVIS


def face_forward(
    poses: np.ndarray, transl: np.ndarray, forward: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Turn about Y so that the first frame faces +Z, and bring its pelvis over the origin; heights stay.

    `forward` (3,) is where the person faces in the first frame; without it, where the pelvis does.
    """
    if forward is None:
        forward = rotate(axis_angle_to_quaternion(poses[0, ROOT]), (0.0, 0.0, 1.0))
    x, _, z = np.asarray(forward, np.float64)
    if np.hypot(x, z) > 0.1:  # else the person lies or looks straight up: no heading to correct
        poses, transl = turn(poses, transl, about((0.0, 1.0, 0.0), -np.arctan2(x, z)))
    start = transl[0] + PELVIS
    return poses, transl - (start[0], 0.0, start[2])


def numbers(source: str, name: str, array: np.ndarray, most: float, meaning: str) -> np.ndarray:
    """`array` as float32. InputError where it holds NaN, infinity, magnitudes beyond `most`, or no numbers."""
    if array.dtype.kind not in "fiu":
        raise InputError(source, name, "numbers", f"dtype {array.dtype}")
    largest = float(np.abs(array).max(initial=0.0)) if array.size else 0.0
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(source, name, "finite numbers", f"NaN or infinity, first at {place}")
    if largest > most:
        raise InputError(source, name, meaning, f"{largest:.3g}")
    return np.ascontiguousarray(array, np.float32)
