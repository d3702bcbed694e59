"""A figure described as an animator would: where the wrists are, how the hands are held, where it looks; and its
SMPL-X pose.

The description lives in a space where any two figures may be mixed. It knows nothing of time or speech.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from engine.pose import PoseClip
from engine.skeleton import EXPRESSION_DIMS, JOINTS, LEFT_HAND, POSE_DIMS, RIGHT_HAND, joint_index
from engine.standin import EXPRESSION_NAMES, FULL_ACTIVATION
from engine.training.talk.kinematics import hand_pose, keep_outside_torso, mirror, mirror_points, solve_arm

# The numbers that describe an arm (of the left side; the right one is its mirror image).
WRIST = slice(0, 3)  # metres, in the chest frame
SWIVEL, PRONATION, FLEXION, DEVIATION = 3, 4, 5, 6  # radians, see kinematics.solve_arm
CURL = slice(7, 11)  # index, middle, ring, pinky: 0 flat to 1 a fist
SPREAD, THUMB_CURL, THUMB_ACROSS = 11, 12, 13
ARM_DIMS = 14

GAZE_LIMIT = 0.5  # radians that an eye turns in its socket
HANDS_APART = 0.11  # metres between the wrists at least
HEAD_SHARE = 0.55  # of a head turn made at the head joint, the rest at the neck


@dataclass(frozen=True)
class Figure:
    """T moments of a figure. Rotations in radians as (pitch down, yaw to the left, roll to the right shoulder up)."""

    torso: np.ndarray  # (T, 3) shared by the three spine joints
    head: np.ndarray  # (T, 3) against the torso
    sway: np.ndarray  # (T, 3) translation, metres
    left: np.ndarray  # (T, ARM_DIMS)
    right: np.ndarray  # (T, ARM_DIMS)
    jaw: np.ndarray  # (T, 3) axis-angle
    gaze: np.ndarray  # (T, 2) pitch down, yaw left, in the world: 0 looks at the camera
    face: np.ndarray  # (T, 100) expression coefficients
    root: np.ndarray  # (T, 3) of the pelvis
    carriage: np.ndarray  # (T, 8) how left, then right, carry the arm: solve_arm's raised, forward, twist, at_wrist
    fingers: np.ndarray  # (T, 90) radians that left, then right, finger joints differ from the described hand

    def mixed(self, other: Figure, share: np.ndarray) -> Figure:
        """This figure where `share` (T,) is 0, the other where it is 1."""
        both = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Figure(*(a + share[:, None] * (b - a) for a, b in both))

    def clip(self, fps: float, source: str) -> PoseClip:
        """The SMPL-X motion: hands absolute, legs straight."""
        joints = np.zeros((len(self.torso), JOINTS, 3))
        joints[:, joint_index("pelvis")] = self.root
        for name in ("spine1", "spine2", "spine3"):
            joints[:, joint_index(name)] = self.torso / 3.0
        joints[:, joint_index("neck")] = self.head * (1.0 - HEAD_SHARE)
        joints[:, joint_index("head")] = self.head * HEAD_SHARE
        joints[:, joint_index("jaw")] = self.jaw
        gaze = self.gaze - (self.root + self.torso + self.head)[:, :2]  # the eyes undo what the head turns
        for name in ("left_eye", "right_eye"):
            joints[:, joint_index(name), :2] = GAZE_LIMIT * np.tanh(gaze / GAZE_LIMIT)
        poses = joints.reshape(-1, POSE_DIMS)
        left, right = _apart(keep_outside_torso(self.left[:, WRIST]), keep_outside_torso(self.right[:, WRIST]))
        for side, arm, wrist, hand in (("left", self.left, left, LEFT_HAND), ("right", self.right, right, RIGHT_HAND)):
            turn = (lambda v: v) if side == "left" else mirror
            half = 0 if side == "left" else 1
            carriage = self.carriage[:, 4 * half : 4 * half + 4].T
            bends = (arm[:, SWIVEL], arm[:, PRONATION], arm[:, FLEXION], arm[:, DEVIATION])
            solved = turn(solve_arm(wrist, *bends, *carriage))
            for index, name in enumerate(("collar", "shoulder", "elbow", "wrist")):
                joints[:, joint_index(f"{side}_{name}")] = solved[:, index]
            fingers = hand_pose(arm[:, CURL], arm[:, SPREAD], arm[:, THUMB_CURL], arm[:, THUMB_ACROSS])
            fingers = fingers + self.fingers[:, 45 * half : 45 * half + 45].reshape(fingers.shape)
            poses[:, hand] = turn(fingers).reshape(len(poses), -1)
        return PoseClip(
            fps, poses.astype(np.float32), self.face.astype(np.float32), self.sway.astype(np.float32), source=source
        )


def face(frames: int, **channels: np.ndarray | float) -> np.ndarray:
    """Expression coefficients (T, 100) from named channels, each (T,) or a number, limited to full activation."""
    out = np.zeros((frames, EXPRESSION_DIMS))
    for name, values in channels.items():
        out[:, EXPRESSION_NAMES.index(name)] = values
    return np.clip(out, 0.0, 1.1 * FULL_ACTIVATION)


def _apart(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wrists (T, 3), each in its own side's frame, moved apart where they would meet."""
    gap = left - mirror_points(right)
    distance = np.linalg.norm(gap, axis=-1)
    wanted = HANDS_APART + 0.02 * np.logaddexp(0.0, (distance - HANDS_APART) / 0.02)
    push = 0.5 * ((wanted - distance) / np.maximum(distance, 0.03))[:, None] * gap
    return left + push, right - mirror_points(push)
