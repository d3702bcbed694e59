"""Poses between samples: joints turn the shorter way at constant speed, everything else goes in a straight line.

It knows clips and frames, not where they come from. It does not smooth: a clip taken to a lower rate may alias.
"""

from __future__ import annotations

import math

import numpy as np

from engine.errors import InputError
from engine.pose import PoseClip, PoseFrame
from engine.rotation import axis_angle_to_quaternion, quaternion_to_axis_angle, slerp
from engine.skeleton import JOINTS, POSE_DIMS


def resample(clip: PoseClip, fps: float) -> PoseClip:
    """`clip` at another rate: the same first sample, as many samples as fit before the last one.

    Raises InputError where `fps` is not 1 to 1000.
    """
    if not (math.isfinite(fps) and 1.0 <= fps <= 1000.0):
        raise InputError(clip.source, "frame rate", "1 to 1000 frames a second", f"{fps:g}")
    if fps == clip.fps:
        return clip
    last = len(clip) - 1
    count = math.floor(last * fps / clip.fps + 1e-6) + 1
    place = np.minimum(np.arange(count) * (clip.fps / fps), last)  # in samples of the clip
    left = np.minimum(place.astype(np.int64), max(last - 1, 0))
    right = np.minimum(left + 1, last)
    t = place - left  # (count,)
    quaternions = axis_angle_to_quaternion(clip.poses.reshape(-1, JOINTS, 3))
    turned = slerp(quaternions[left], quaternions[right], t[:, None])  # (count, 55, 4)
    return PoseClip(
        fps=fps,
        poses=quaternion_to_axis_angle(turned).reshape(count, POSE_DIMS),
        expressions=_mix(clip.expressions[left], clip.expressions[right], t[:, None]),
        transl=_mix(clip.transl[left], clip.transl[right], t[:, None]),
        betas=clip.betas,
        source=clip.source,
    )


def interpolate(a: PoseFrame, b: PoseFrame, time_ns: int) -> PoseFrame:
    """The pose at `time_ns` between a and b (a not after b); outside it is that of the nearer one, at `time_ns`."""
    span = b.time_ns - a.time_ns
    t = (time_ns - a.time_ns) / span if span > 0 else float(time_ns >= b.time_ns)
    if t <= 0.0 or t >= 1.0:
        nearer = a if t <= 0.0 else b
        return PoseFrame(time_ns, nearer.pose, nearer.expression, nearer.transl)
    ends = axis_angle_to_quaternion(np.stack([a.pose, b.pose]).reshape(2, JOINTS, 3))
    pose = quaternion_to_axis_angle(slerp(ends[0], ends[1], t)).reshape(POSE_DIMS)
    return PoseFrame(time_ns, pose, _mix(a.expression, b.expression, t), _mix(a.transl, b.transl, t))


def _mix(a: np.ndarray, b: np.ndarray, t: np.ndarray | float) -> np.ndarray:
    return (a * (1.0 - t) + b * t).astype(np.float32)
