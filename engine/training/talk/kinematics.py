"""Arms of the SMPL-X skeleton: from where a wrist shall be to the joint rotations that bring it there, and back.

Everything is computed for the left arm in the frame of the chest and mirrored for the right one: axes of spine3 (x to
the person's left, y up, z forward), origin 14.5 cm below the middle of the shoulder joints. The offsets are the
stand-in's; a clip made with them fits other bodies as any motion capture does. It knows nothing of time, speech or of
which postures are good.
"""

from __future__ import annotations

import numpy as np

from engine.rotation import axis_angle_to_matrix, matrix_to_axis_angle

# Rest offsets in metres, left side: to the collar joint, collar to shoulder, shoulder to elbow, elbow to wrist.
COLLAR = np.array([0.023, 0.169, 0.002])
SHOULDER = np.array([0.147, -0.024, -0.002])
UPPER_ARM = np.array([0.242, 0.0, 0.0])
FOREARM = np.array([0.239, 0.0, 0.0])
HAND = np.array([0.10, 0.0, 0.0])  # wrist to the middle knuckles

TORSO_HALF_WIDTH = 0.185  # metres: the ellipse about the trunk that no wrist enters
TORSO_HALF_DEPTH = 0.165
TORSO_CENTRE_Z = 0.02


def mirror(vector: np.ndarray) -> np.ndarray:
    """Axis-angle (..., 3) of the left side to that of the right side, and back (reflection at x = 0)."""
    out: np.ndarray = vector * np.array([1.0, -1.0, -1.0])
    return out


def mirror_points(points: np.ndarray) -> np.ndarray:
    """Points (..., 3) reflected at x = 0."""
    out: np.ndarray = points * np.array([-1.0, 1.0, 1.0])
    return out


def keep_outside_torso(wrist: np.ndarray) -> np.ndarray:
    """Wrists (T, 3) of the left arm in the chest frame, moved smoothly out of the trunk's ellipse and away from the
    shoulder."""
    a, b = TORSO_HALF_WIDTH, TORSO_HALF_DEPTH
    x, z = wrist[:, 0], wrist[:, 2] - TORSO_CENTRE_Z
    radius = np.hypot(x / a, z / b)
    outside = 1.0 + _softplus((radius - 1.0) / 0.06) * 0.06  # about max(radius, 1), with a rounded corner
    scale = outside / np.maximum(radius, 0.2)
    out = np.stack([x * scale, wrist[:, 1], TORSO_CENTRE_Z + z * scale], -1)
    near = np.linalg.norm(out - COLLAR - SHOULDER, axis=-1)
    out[:, 2] += 0.24 * np.exp(-((near / 0.16) ** 2))  # at the shoulder joint itself the arm would have no direction
    return out


def solve_arm(
    wrist: np.ndarray, swivel: np.ndarray, pronation: np.ndarray, flexion: np.ndarray, deviation: np.ndarray,
    raised: np.ndarray | float = 0.0, forward: np.ndarray | float = 0.0, twist: np.ndarray | float = 0.0,
    at_wrist: np.ndarray | float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Joint rotations of the left arm that bring the wrist to `wrist`, as near as the arm's length allows.

    wrist: (T, 3) in the chest frame, metres. swivel: (T,) radians, the elbow's turn about the line from shoulder to
    wrist: 0 hangs, positive lifts it outward. pronation: (T,) radians about the forearm: 0 has the thumb up when the
    forearm points forward, positive turns the palm down, negative up; elbow and wrist share it. flexion: (T,) of the
    wrist towards the palm. deviation: (T,) towards the thumb. raised, forward: (T,) radians of the collar beyond what
    the arm asks for. twist: (T,) radians of the upper arm about itself, undone at the elbow: skeletons differ in it.
    at_wrist: (T,) share of the pronation that the wrist makes beyond its half. Returns (T, 4, 3) axis-angle: collar,
    shoulder, elbow, wrist.
    """
    lift = np.clip(wrist[:, 1] / 0.5, -0.3, 1.0)  # the collar follows a raised arm
    reach = np.clip((wrist[:, 2] - 0.25) / 0.4, -0.5, 1.0)
    collar = np.stack([np.zeros_like(lift), -0.12 * reach - forward, 0.22 * lift - 0.03 + raised], -1)
    to_collar = axis_angle_to_matrix(collar)  # (T, 3, 3)
    goal = np.einsum("tji,tj->ti", to_collar, wrist - COLLAR) - SHOULDER  # in the collar's frame, from the shoulder

    upper, fore = float(np.linalg.norm(UPPER_ARM)), float(np.linalg.norm(FOREARM))
    distance = np.linalg.norm(goal, axis=-1)
    line = goal / np.maximum(distance, 1e-6)[:, None]
    longest, shortest, soft = 0.985 * (upper + fore), 0.18, 0.02
    distance = longest - soft * _softplus((longest - distance) / soft)
    distance = (shortest + soft * _softplus((distance - shortest) / soft))[:, None]

    cosine = (upper**2 + distance**2 - fore**2) / (2.0 * upper * distance)
    inner = np.arccos(np.clip(cosine, -1.0, 1.0))  # angle at the shoulder between line and upper arm
    hanging = np.array([0.35, -1.0, -0.45])
    pole = hanging - (line @ hanging)[:, None] * line
    pole /= np.linalg.norm(pole, axis=-1, keepdims=True)
    way = np.cos(swivel)[:, None] * pole + np.sin(swivel)[:, None] * np.cross(line, pole)
    u = np.cos(inner) * line + np.sin(inner) * way  # along the upper arm
    w = np.sin(inner) * line - np.cos(inner) * way  # where the forearm bends to
    h = np.cross(w, u)  # the hinge
    f = (distance * line - upper * u) / fore  # along the forearm
    f /= np.linalg.norm(f, axis=-1, keepdims=True)

    shoulder = np.stack([u, w, h], -1) @ _rest_frame(UPPER_ARM).T
    elbow = np.swapaxes(shoulder, -1, -2) @ np.stack([f, np.cross(f, h), h], -1) @ _rest_frame(FOREARM).T
    along = FOREARM / fore
    turned = axis_angle_to_matrix(np.outer(np.broadcast_to(twist, distance.shape[:1]), along))
    elbow_turn = axis_angle_to_matrix(np.outer(pronation * (0.5 - at_wrist), along))
    wrist_turn = axis_angle_to_matrix(np.outer(pronation * (0.5 + at_wrist), along))
    zero = np.zeros_like(flexion)
    bend = axis_angle_to_matrix(np.stack([zero, zero, -flexion], -1)) @ axis_angle_to_matrix(
        np.stack([zero, -deviation, zero], -1)
    )
    return np.stack(
        [
            collar,
            matrix_to_axis_angle(shoulder @ turned),
            matrix_to_axis_angle(np.swapaxes(turned, -1, -2) @ elbow @ elbow_turn),
            matrix_to_axis_angle(wrist_turn @ bend),
        ],
        1,
    )


def arm_points(rotations: np.ndarray) -> np.ndarray:
    """Forward kinematics of the left arm: (T, 4, 3) axis-angle to (T, 5, 3) points in the chest frame.

    Collar, shoulder, elbow, wrist, middle knuckles.
    """
    at, frame = np.broadcast_to(COLLAR, (len(rotations), 3)), np.eye(3)
    points = [at]
    for joint, offset in enumerate((SHOULDER, UPPER_ARM, FOREARM, HAND)):
        frame = frame @ axis_angle_to_matrix(rotations[:, joint])
        at = at + frame @ offset
        points.append(at)
    return np.stack(points, 1)


def hand_directions(rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the left hand's fingers point and its palm faces: (T, 4, 3) axis-angle to two (T, 3) of length 1."""
    frame = np.eye(3)
    for joint in range(4):
        frame = frame @ axis_angle_to_matrix(rotations[:, joint])
    return frame[..., 0], -frame[..., 1]


FINGERS = 4  # index, middle, ring, pinky: the order of `curl` below


def hand_pose(curl: np.ndarray, spread: np.ndarray, thumb_curl: np.ndarray, thumb_across: np.ndarray) -> np.ndarray:
    """Finger joints of the left hand, (T, 15, 3) axis-angle in SMPL-X order (index, middle, pinky, ring, thumb).

    curl: (T, 4) 0 flat to 1 a fist. spread: (T,) -1 together to 1 wide. thumb_curl: (T,) 0 straight to 1 bent.
    thumb_across: (T,) 0 beside the palm to 1 before it.
    """
    out = np.zeros((len(curl), 5, 3, 3))
    fan = np.array([-0.16, -0.03, 0.10, 0.22])  # about y: negative leads towards the thumb
    bend = np.array([1.25, 1.55, 0.95])  # knuckle, middle, last joint of a fist
    for finger, row in enumerate((0, 1, 3, 2)):
        out[:, row, :, 2] = -curl[:, finger, None] * bend
        out[:, row, 0, 1] = fan[finger] * spread * (1.0 - 0.8 * np.clip(curl[:, finger], 0.0, 1.0))
    out[:, 4, 0] = np.stack([0.9 * thumb_across, 0.15 * thumb_across + 0.15 * thumb_curl, -0.1 * thumb_across], -1)
    out[:, 4, 1, 1] = 0.45 * thumb_curl
    out[:, 4, 2, 1] = 0.8 * thumb_curl
    return out.reshape(len(curl), 15, 3)


def _rest_frame(bone: np.ndarray) -> np.ndarray:
    """Columns: along the bone, the way it bends (forward), the hinge."""
    along = bone / np.linalg.norm(bone)
    forward = np.array([0.0, 0.0, 1.0])
    forward = forward - (forward @ along) * along
    forward /= np.linalg.norm(forward)
    return np.stack([along, forward, np.cross(forward, along)], -1)


def _softplus(x: np.ndarray) -> np.ndarray:
    out: np.ndarray = np.logaddexp(0.0, x)
    return out
