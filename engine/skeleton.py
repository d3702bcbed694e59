"""The SMPL-X skeleton: 55 joints in native order, their parents, and where each part lies in a flat pose of 165 numbers."""

from __future__ import annotations

import numpy as np

JOINT_NAMES: tuple[str, ...] = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "jaw", "left_eye", "right_eye",
    "left_index1", "left_index2", "left_index3", "left_middle1", "left_middle2", "left_middle3",
    "left_pinky1", "left_pinky2", "left_pinky3", "left_ring1", "left_ring2", "left_ring3",
    "left_thumb1", "left_thumb2", "left_thumb3",
    "right_index1", "right_index2", "right_index3", "right_middle1", "right_middle2", "right_middle3",
    "right_pinky1", "right_pinky2", "right_pinky3", "right_ring1", "right_ring2", "right_ring3",
    "right_thumb1", "right_thumb2", "right_thumb3",
)  # fmt: skip

PARENTS: tuple[int, ...] = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15,
    20, 25, 26, 20, 28, 29, 20, 31, 32, 20, 34, 35, 20, 37, 38,
    21, 40, 41, 21, 43, 44, 21, 46, 47, 21, 49, 50, 21, 52, 53,
)  # fmt: skip

JOINTS = len(JOINT_NAMES)  # 55
POSE_DIMS = 3 * JOINTS  # 165, axis-angle
BETAS_DIMS = 300  # shape coefficients, at most
EXPRESSION_DIMS = 100  # FLAME coefficients in the 2020 model

ROOT = slice(0, 3)
BODY = slice(3, 66)
JAW = slice(66, 69)
LEFT_EYE = slice(69, 72)
RIGHT_EYE = slice(72, 75)
LEFT_HAND = slice(75, 120)
RIGHT_HAND = slice(120, 165)


def joint_index(name: str) -> int:
    """Index of the joint `name`; ValueError where there is none."""
    return JOINT_NAMES.index(name)


def joint_slice(name: str) -> slice:
    """Where the three numbers of joint `name` lie in a flat pose (165,)."""
    start = 3 * joint_index(name)
    return slice(start, start + 3)


def joint_sides() -> np.ndarray:
    """(55,) int8: -1 right, 0 middle, 1 left."""
    return np.array([1 if n.startswith("left_") else -1 if n.startswith("right_") else 0 for n in JOINT_NAMES], np.int8)
