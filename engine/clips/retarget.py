"""BVH motion onto the SMPL-X skeleton: global rotations of bones, relative to a rest pose taken to the T-pose.

The rest pose tells which way is up, left and forward, and how its arms and legs differ from a T-pose; a file whose
bones stand in a T-pose gives the zero pose. Trunk, head, hands and feet are taken to be at rest as a person stands.
The legs' length sets the scale, so steps fit the body whatever the unit. A rest pose that is no standing person is
not understood.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.clips.bvh import Bvh
from engine.clips.convention import PELVIS, build_clip, face_forward
from engine.clips.hands import HandSpace
from engine.errors import InputError
from engine.pose import PoseClip
from engine.rotation import between, inverse, matrix_to_quaternion, multiply, quaternion_to_axis_angle, rotate, slerp
from engine.skeleton import JOINT_NAMES, LEFT_HAND, PARENTS, RIGHT_HAND

LEG = 0.79  # metres, hip to ankle of the SMPL-X mean body
IDENTITY = np.array([0.0, 0.0, 0.0, 1.0], np.float32)
T_POSE = {  # limbs with their far ends and their directions
    "left_shoulder": ("left_elbow", (1, 0, 0)), "left_elbow": ("left_wrist", (1, 0, 0)),
    "right_shoulder": ("right_elbow", (-1, 0, 0)), "right_elbow": ("right_wrist", (-1, 0, 0)),
    "left_hip": ("left_knee", (0, -1, 0)), "left_knee": ("left_ankle", (0, -1, 0)),
    "right_hip": ("right_knee", (0, -1, 0)), "right_knee": ("right_ankle", (0, -1, 0)),
}  # fmt: skip
CHAINS = (("pelvis", ("spine1", "spine2", "spine3")), ("spine3", ("neck", "head")))
CALIBRATION_JUMP = np.radians(20.0)  # in one frame, and ten times what the next one brings


def retarget(bvh: Bvh, joints: Mapping[str, int]) -> PoseClip:
    """The motion as a clip that starts facing +Z over the origin. `joints`: our joint names to indices in `bvh`.

    A first frame from which the second jumps away is a calibration pose, and is dropped. InputError where the rest pose
    is not that of a standing person.
    """
    joints = _with_trunk(bvh, joints)
    rest = bvh.rest()
    upright = _upright(bvh.source, rest, joints)
    turns, places = bvh.pose()
    keep = slice(1 if _starts_with_calibration(turns) else 0, None)
    turns, places = turns[keep], places[keep, joints["pelvis"]]
    turns = multiply(multiply(upright, turns), inverse(upright))  # (T, J, 4) with the axes of SMPL-X
    body = _globals(bvh, turns, rotate(upright, rest), joints)
    local = np.stack(
        [
            body[name] if parent < 0 else multiply(inverse(body[JOINT_NAMES[parent]]), body[name])
            for name, parent in zip(JOINT_NAMES, PARENTS, strict=True)
        ],
        1,
    )  # (T, 55, 4)
    poses = quaternion_to_axis_angle(local).reshape(len(local), -1)
    hands = HandSpace.relaxed()
    for side, part, mean in (("left", LEFT_HAND, hands.mean_left), ("right", RIGHT_HAND, hands.mean_right)):
        if f"{side}_index1" not in joints and f"{side}_middle1" not in joints:
            poses[:, part] = mean
    transl = rotate(upright, places) * (LEG / _leg(bvh.source, rest, joints)) - PELVIS
    forward = rotate(body["pelvis"][0], (0, 0, 1)) + rotate(body["spine3"][0], (0, 0, 1))
    rate = 1.0 / bvh.frame_time
    fps = float(round(rate)) if abs(rate - round(rate)) < 1e-3 * rate else rate  # 0.008333 s means 120
    poses, transl = face_forward(poses, transl, forward)
    return build_clip(bvh.source, fps, poses, transl=transl)


def _globals(bvh: Bvh, turns: np.ndarray, rest: np.ndarray, joints: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Global rotation (T, 4) of every SMPL-X joint; one without a counterpart moves with its parent."""
    middle = {name for _, names in CHAINS for name in names}
    body: dict[str, np.ndarray] = {}
    straight: dict[str, np.ndarray] = {}  # from the T-pose to the rest pose, along each limb
    for name, parent in zip(JOINT_NAMES, PARENTS, strict=True):
        above = JOINT_NAMES[parent] if parent >= 0 else None
        straight[name] = straight[above] if above else IDENTITY
        end, direction = T_POSE.get(name, ("", (0, 0, 0)))
        if name in joints and end in joints:
            bone = rest[joints[end]] - rest[joints[name]]
            if np.linalg.norm(bone) > 0:
                straight[name] = multiply(between(rotate(straight[name], direction), bone), straight[name])
        if name in joints and name not in middle:
            body[name] = multiply(turns[:, joints[name]], straight[name])
        elif name in middle:
            body[name] = _along_chain(bvh, turns, joints, name)
        else:
            body[name] = body[above] if above else turns[:, joints["pelvis"]]
    return body


def _along_chain(bvh: Bvh, turns: np.ndarray, joints: Mapping[str, int], name: str) -> np.ndarray:
    """Rotation of a spine or neck joint, shared out evenly over however many joints the file has there."""
    if name in joints:
        return turns[:, joints[name]]
    start, names = next((start, names) for start, names in CHAINS if name in names)
    chain = _path(bvh, joints[start], joints.get(names[-1], joints[start]))
    place = (names.index(name) + 1) / len(names) * (len(chain) - 1)
    left = min(int(place), max(len(chain) - 2, 0))
    right = min(left + 1, len(chain) - 1)
    return slerp(turns[:, chain[left]], turns[:, chain[right]], np.full(len(turns), place - left))


def _with_trunk(bvh: Bvh, joints: Mapping[str, int]) -> dict[str, int]:
    """`joints` with a pelvis and a chest: where legs and arms branch off, unless they are named."""
    pelvis = _meeting(bvh, joints["left_hip"], joints["right_hip"])
    chest = _meeting(bvh, joints["left_shoulder"], joints["right_shoulder"])
    return {"pelvis": pelvis, "spine3": chest, **joints}


def _ancestors(bvh: Bvh, joint: int) -> list[int]:
    """From the root down to `joint`."""
    path = [joint]
    while bvh.joints[path[0]].parent >= 0:
        path.insert(0, bvh.joints[path[0]].parent)
    return path


def _meeting(bvh: Bvh, a: int, b: int) -> int:
    """The nearest joint above both a and b."""
    return [x for x, y in zip(_ancestors(bvh, a)[:-1], _ancestors(bvh, b)[:-1], strict=False) if x == y][-1]


def _path(bvh: Bvh, start: int, end: int) -> list[int]:
    """Joints from `start` down to `end`; only these two where one does not lie above the other."""
    path = _ancestors(bvh, end)
    return path[path.index(start) :] if start in path else [start, end]


def _upright(source: str, rest: np.ndarray, joints: Mapping[str, int]) -> np.ndarray:
    """Quaternion that turns the rest pose to Y up, left hand to +X; near an axis, that axis is meant."""
    left = rest[joints["left_hip"]] - rest[joints["right_hip"]]
    left = left + rest[joints["left_shoulder"]] - rest[joints["right_shoulder"]]
    shoulders = (rest[joints["left_shoulder"]] + rest[joints["right_shoulder"]]) / 2
    up = shoulders - (rest[joints["left_knee"]] + rest[joints["right_knee"]]) / 2
    up = _snapped(up)
    left = _snapped(left - up * (up @ left))
    if not (np.linalg.norm(up) > 0 and np.linalg.norm(left) > 0):
        raise InputError(
            source, "OFFSET", "a standing person at rest", "shoulders, hips and knees in one line or place"
        )
    return matrix_to_quaternion(np.stack([left, up, np.cross(left, up)]))


def _snapped(vector: np.ndarray) -> np.ndarray:
    """Unit vector: the axis within 30 degrees, else as it is; zero stays zero."""
    length = np.linalg.norm(vector)
    if length < 1e-9:
        return np.zeros(3)
    unit = vector / length
    axis = int(np.argmax(np.abs(unit)))
    near = abs(unit[axis]) > np.cos(np.radians(30.0))
    return np.asarray(np.sign(unit[axis]) * np.eye(3)[axis] if near else unit)


def _leg(source: str, rest: np.ndarray, joints: Mapping[str, int]) -> float:
    """Length from hip to ankle in the file's unit, the mean of both legs."""
    lengths = []
    for side in ("left", "right"):
        hip, knee = rest[joints[f"{side}_hip"]], rest[joints[f"{side}_knee"]]
        thigh = float(np.linalg.norm(knee - hip))
        ankle = joints.get(f"{side}_ankle")
        lengths.append(2.0 * thigh if ankle is None else thigh + float(np.linalg.norm(rest[ankle] - knee)))
    if not 1e-6 < sum(lengths) < 1e9:
        raise InputError(source, "OFFSET", "legs of some length", f"{sum(lengths) / 2:g}")
    return sum(lengths) / 2


def _starts_with_calibration(turns: np.ndarray) -> bool:
    if len(turns) < 3:
        return False
    steps = quaternion_to_axis_angle(multiply(inverse(turns[:2]), turns[1:3]))  # (2, J, 3)
    first, second = np.linalg.norm(steps, axis=-1).max(-1)
    return bool(first > CALIBRATION_JUMP and first > 10.0 * second)
