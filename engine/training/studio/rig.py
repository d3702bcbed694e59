"""Puts the SMPL-X skeleton into a MakeHuman body: joints, weights, T-pose, and the expression units as displacements.

MakeHuman rests with lowered arms, SMPL-X in a T. Instead of posing the mesh into the T, every vertex is moved to where linear
blend skinning from the T brings it back exactly to its rest: lowered arms, which an anchor mostly has, stay as modelled.
Beside the 55 joints two helpers carry half of the wrists' twist along the forearms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.skeleton import JOINT_NAMES, JOINTS, PARENTS, joint_index
from engine.standin import EXPRESSION_NAMES
from engine.training.studio.makehuman import Rig

PELVIS_AT = np.array([0.0, -0.35, 0.0])  # where the SMPL-X template has it
TWIST_LEFT, TWIST_RIGHT = JOINTS, JOINTS + 1  # helpers after the 55 joints
HELPED = {TWIST_LEFT: ("left_elbow", "left_wrist"), TWIST_RIGHT: ("right_elbow", "right_wrist")}

# joint -> MakeHuman bone whose head is the joint; weights of unlisted bones go to the nearest listed ancestor
_BONES: dict[str, str] = {
    "pelvis": "spine05", "spine1": "spine03", "spine2": "spine02", "spine3": "spine01", "neck": "neck01", "head": "head",
    "jaw": "jaw",
} | {
    f"{side}_{joint}": f"{bone}.{side[0].upper()}"
    for side in ("left", "right")
    for joint, bone in {
        "hip": "upperleg01", "knee": "lowerleg01", "ankle": "foot", "foot": "toe2-1", "collar": "clavicle",
        "shoulder": "upperarm01", "elbow": "lowerarm01", "wrist": "wrist", "eye": "eye",
        **{f"{finger}{k}": f"finger{number}-{k}"
           for finger, number in (("thumb", 1), ("index", 2), ("middle", 3), ("ring", 4), ("pinky", 5)) for k in (1, 2, 3)},
    }.items()
}  # fmt: skip

# expression unit -> MakeHuman face pose units and how much of each
_UNITS: dict[str, dict[str, float]] = {
    "mouth_open": {"JawDrop": 1.0},
    "smile": {"MouthLeftPullUp": 0.55, "MouthRightPullUp": 0.55, "MouthLeftPullSide": 0.2, "MouthRightPullSide": 0.2,
              "LeftCheekUp": 0.4, "RightCheekUp": 0.4},
    "lips_part": {"lowerLipDown": 0.8, "UpperLipUp": 0.7},
    "lips_wide": {"MouthLeftPullSide": 1.0, "MouthRightPullSide": 1.0},
    "lips_kiss": {"LipsKiss": 1.0},
    "lips_press": {"lowerLipUp": 0.5, "lowerLipBackward": 0.6, "UpperLipBackward": 0.6},
    "lip_bite": {"lowerLipBackward": 1.0, "lowerLipUp": 0.6, "UpperLipUp": 0.3},
    "frown": {"MouthLeftPullDown": 1.0, "MouthRightPullDown": 1.0},
    "brow_up": {"LeftOuterBrowUp": 0.6, "RightOuterBrowUp": 0.6, "LeftInnerBrowUp": 0.5, "RightInnerBrowUp": 0.5},
    "brow_down": {"LeftBrowDown": 1.0, "RightBrowDown": 1.0},
    "brow_inner_up": {"LeftInnerBrowUp": 1.0, "RightInnerBrowUp": 1.0},
    "blink_left": {"LeftUpperLidClosed": 1.0, "LeftLowerLidUp": 0.3},
    "blink_right": {"RightUpperLidClosed": 1.0, "RightLowerLidUp": 0.3},
    "squint": {"LeftLowerLidUp": 1.0, "RightLowerLidUp": 1.0},
    "eyes_wide": {"LeftUpperLidOpen": 1.0, "RightUpperLidOpen": 1.0},
    "cheeks_up": {"LeftCheekUp": 1.0, "RightCheekUp": 1.0},
    "nose_wrinkle": {"NoseWrinkler": 1.0},
    "nasolabial": {"NasolabialDeepener": 1.0},
    "cheeks_puff": {"CheeksPump": 1.0},
    "cheeks_suck": {"CheeksSuck": 1.0},
    "chin_forward": {"ChinForward": 1.0},
    "chin_left": {"ChinLeft": 1.0},
    "mouth_left": {"MouthMoveLeft": 1.0},
    "mouth_right": {"MouthMoveRight": 1.0},
    "smile_left": {"MouthLeftPullUp": 0.7},
    "smile_right": {"MouthRightPullUp": 0.7},
    "brow_up_left": {"LeftOuterBrowUp": 0.6, "LeftInnerBrowUp": 0.5},
    "brow_up_right": {"RightOuterBrowUp": 0.6, "RightInnerBrowUp": 0.5},
    "brow_down_left": {"LeftBrowDown": 1.0},
    "brow_down_right": {"RightBrowDown": 1.0},
    "upper_lip_up": {"UpperLipUp": 1.0},
    "lower_lip_down": {"lowerLipDown": 1.0},
    "lips_forward": {"UpperLipForward": 1.0, "lowerLipForward": 1.0},
    "tongue_up": {"TongueUp": 1.0},
    "tongue_out": {"TongueOut": 1.0},
}  # fmt: skip


@dataclass(frozen=True)
class Skin:
    """Vertices in the T-pose with what moves them. Weights have 57 columns: the joints and the two twist helpers."""

    template: np.ndarray  # (V, 3) metres, T-pose
    weights: np.ndarray  # (V, 57)
    expressions: np.ndarray  # (n, V, 3) metres at full activation


@dataclass(frozen=True)
class Skeleton:
    """Joints of one person: at MakeHuman's rest, in the T-pose, and the global rotations between them."""

    rest: np.ndarray  # (55, 3)
    tpose: np.ndarray  # (55, 3)
    turns: np.ndarray  # (55, 3, 3), rest to T

    def to_rest(self) -> np.ndarray:
        """(57, 3, 4): for each joint and helper the transform from the T-pose to rest."""
        turns = np.concatenate([self.turns, [self.turns[joint_index(wrist)] for _, wrist in HELPED.values()]])
        for helper, (elbow, wrist) in HELPED.items():
            turns[helper] = _half_way(self.turns[joint_index(elbow)], self.turns[joint_index(wrist)])
        owners = [*range(JOINTS), *(joint_index(elbow) for elbow, _ in HELPED.values())]
        back = turns.transpose(0, 2, 1)
        shift = self.rest[owners] - np.einsum("jab,jb->ja", back, self.tpose[owners])
        return np.concatenate([back, shift[..., None]], axis=2)


def find_skeleton(rig: Rig, vertices: np.ndarray) -> Skeleton:
    """The SMPL-X joints in a shaped base mesh at rest (V, 3), and its T-pose."""
    rest = np.stack([rig.head(_BONES[name], vertices) for name in JOINT_NAMES])
    turns = np.stack([np.eye(3)] * JOINTS)
    for side, outward in (("left", 1.0), ("right", -1.0)):
        at = {
            name: rest[joint_index(f"{side}_{name}")]
            for name in ("shoulder", "elbow", "wrist", "middle1", "index1", "pinky1")
        }
        out = np.array([outward, 0.0, 0.0])
        shoulder = _shortest(at["elbow"] - at["shoulder"], out)
        hand = _frame(out, [0, 0, 1.0]) @ _frame(at["middle1"] - at["wrist"], at["index1"] - at["pinky1"]).T
        elbow = _shortest(shoulder @ (at["wrist"] - at["elbow"]), out) @ shoulder
        turns[joint_index(f"{side}_shoulder")], turns[joint_index(f"{side}_elbow")] = shoulder, elbow
        turns[joint_index(f"{side}_wrist")] = hand
        for finger in ("index", "middle", "ring", "pinky", "thumb"):
            for k in (1, 2, 3):
                joint = joint_index(f"{side}_{finger}{k}")
                bone = _BONES[f"{side}_{finger}{k}"]
                along = hand @ (rig.tail(bone, vertices) - rig.head(bone, vertices))
                flat = along if finger == "thumb" else np.array([along[0], 0.0, 0.4 * along[2]])
                turns[joint] = _shortest(along, flat) @ hand
    tpose = np.zeros_like(rest)
    tpose[0] = PELVIS_AT
    for joint in range(1, JOINTS):
        parent = PARENTS[joint]
        tpose[joint] = tpose[parent] + turns[parent] @ (rest[joint] - rest[parent])
    return Skeleton(rest, tpose, turns)


def merge_weights(rig: Rig, count: int) -> np.ndarray:
    """(V, 57): MakeHuman's skin weights, each bone's given to its joint; unweighted helpers hang on the pelvis."""
    owner_of = {bone: joint_index(name) for name, bone in _BONES.items()}
    owner_of |= {"lowerarm02.L": TWIST_LEFT, "lowerarm02.R": TWIST_RIGHT}
    weights = np.zeros((count, JOINTS + len(HELPED)))
    for bone, (vertices, values) in rig.weights.items():
        at: str | None = bone
        while at is not None and at not in owner_of:
            at = rig.parents[at]
        np.add.at(weights[:, owner_of[at] if at else 0], vertices, values)
    bare = weights.sum(1) < 1e-6
    weights[bare, 0] = 1.0
    return np.asarray(weights / weights.sum(1, keepdims=True))


def unpose(vertices: np.ndarray, weights: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Where in the T-pose (V, 3) the vertices must lie so that skinning back to rest gives exactly `vertices`."""
    blend = np.einsum("vj,jab->vab", weights, skeleton.to_rest())
    return np.asarray(np.linalg.solve(blend[:, :, :3], (vertices - blend[:, :, 3])[..., None])[..., 0])


def expression_moves(rig: Rig, vertices: np.ndarray, units: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    """(n, V, 3): displacement of the shaped base mesh at full activation of each named expression unit."""
    bones = [b for b in rig.ordered() if b in rig.weights]
    dense = np.zeros((len(vertices), len(bones)))
    for column, bone in enumerate(bones):
        np.add.at(dense[:, column], *rig.weights[bone])
    needed = {unit for parts in _UNITS.values() for unit in parts}
    moves = {
        unit: _skin_by_bones(rig, bones, dense, vertices, units[unit]) - vertices * dense.sum(1)[:, None]
        for unit in needed
    }
    return np.stack([sum(share * moves[unit] for unit, share in _UNITS[name].items()) for name in EXPRESSION_NAMES])  # type: ignore[misc]


def _skin_by_bones(
    rig: Rig, bones: list[str], dense: np.ndarray, vertices: np.ndarray, local: dict[str, np.ndarray]
) -> np.ndarray:
    turn: dict[str, np.ndarray] = {}
    place: dict[str, np.ndarray] = {}
    for bone in rig.ordered():
        head, parent = rig.head(bone, vertices), rig.parents[bone]
        if parent is None:
            turn[bone], place[bone] = local.get(bone, np.eye(3)), head
        else:
            turn[bone] = turn[parent] @ local.get(bone, np.eye(3))
            place[bone] = place[parent] + turn[parent] @ (head - rig.head(parent, vertices))
    transforms = np.stack([np.c_[turn[b], place[b] - turn[b] @ rig.head(b, vertices)] for b in bones])  # (bones, 3, 4)
    blend = np.tensordot(dense, transforms, 1)  # (V, 3, 4)
    return np.asarray(np.einsum("vab,vb->va", blend[:, :, :3], vertices) + blend[:, :, 3])


def _shortest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation (3, 3) that turns direction `a` to direction `b` (not opposite)."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    axis = np.cross(a, b)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.asarray(np.eye(3) + cross + cross @ cross / (1.0 + a @ b))


def _frame(along: np.ndarray, beside: np.ndarray | list[float]) -> np.ndarray:
    """Orthonormal columns: `along`, what of `beside` is square to it, and their cross product."""
    x = along / np.linalg.norm(along)
    y = np.asarray(beside) - (np.asarray(beside) @ x) * x
    y /= np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _half_way(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The rotation between `a` and `b` (3, 3)."""
    mean = a + b
    u, _, v = np.linalg.svd(mean)
    return np.asarray(u @ v)
