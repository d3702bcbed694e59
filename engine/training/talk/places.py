"""Where a person before a camera holds the hands: places by name, and arms that hold a hand there without pain.

A place is a box for the wrist and, where it matters, the way that fingers and palm face. Of many random arms the one
that suits the place, the joints and the body's bulk best is taken. It knows nothing of time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.training.talk import kinematics as body
from engine.training.talk.figure import ARM_DIMS, DEVIATION, FLEXION, PRONATION, SWIVEL, WRIST
from engine.training.talk.kinematics import arm_points, hand_directions, keep_outside_torso, solve_arm

HEAD_CENTRE, HEAD_RADIUS = np.array([0.0, 0.36, 0.07]), 0.17  # metres, in the chest frame
NECK = 0.22  # metres: the trunk ends here
_FINGERTIP = 1.9  # wrist to fingertips, in lengths of wrist to knuckles
_TRIES = 96  # random arms of which the best is taken

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Place:
    """A box for the left wrist in the chest frame, metres, and directions there; a zero direction leaves it open."""

    low: Triple
    high: Triple
    fingers: Triple = (0.0, 0.0, 0.0)
    palm: Triple = (0.0, 0.0, 0.0)
    swivel: tuple[float, float] = (-0.15, 1.0)  # radians, see kinematics.solve_arm


PLACES: dict[str, Place] = {
    "side": Place((0.20, -0.345, -0.06), (0.33, -0.285, 0.10), (0.0, -1.0, 0.1), (-1.0, 0.0, -0.4), (-0.8, 0.2)),
    "low": Place((0.14, -0.32, 0.10), (0.34, -0.14, 0.30), (0.0, -0.6, 0.6), swivel=(-0.6, 0.7)),
    "hip": Place((0.235, -0.24, 0.0), (0.29, -0.13, 0.08), (-0.6, -0.3, 0.7), (-0.8, 0.0, -0.6)),
    "belt": Place((0.06, -0.24, 0.21), (0.22, -0.10, 0.28), (-1.0, -0.1, 0.1), (0.0, 0.0, -1.0)),
    "chest": Place((0.08, -0.04, 0.20), (0.20, 0.12, 0.27), (-1.0, 0.4, 0.0), (0.0, 0.0, -1.0)),
    "throat": Place((0.03, 0.04, 0.22), (0.16, 0.16, 0.30), (-0.4, 1.0, -0.1), (0.0, 0.0, -1.0)),
    "chin": Place((0.02, 0.08, 0.26), (0.12, 0.18, 0.32), (-0.2, 1.0, 0.0), (-0.5, 0.0, -0.8)),
    "cheek": Place((0.19, 0.16, 0.10), (0.27, 0.34, 0.24), (-0.1, 1.0, 0.0), (-1.0, 0.0, 0.0)),
    "raised": Place((0.20, 0.22, 0.06), (0.44, 0.46, 0.30), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "overhead": Place((0.10, 0.46, 0.0), (0.40, 0.60, 0.24), (0.0, 1.0, 0.0)),
    "shown": Place((0.12, 0.02, 0.24), (0.34, 0.30, 0.36), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "stop": Place((0.08, 0.0, 0.32), (0.32, 0.26, 0.44), (0.0, 1.0, 0.1), (0.0, 0.0, 1.0)),
    "point": Place((0.06, 0.0, 0.36), (0.28, 0.24, 0.48), (0.0, 0.1, 1.0)),
    "near": Place((0.02, -0.26, 0.24), (0.42, 0.26, 0.44)),
    "wide": Place((0.10, -0.40, -0.05), (0.62, 0.48, 0.50)),
    "over": Place((-0.15, -0.06, 0.25), (-0.07, 0.03, 0.29), (-0.9, 0.3, -0.3), (0.0, -0.3, -1.0)),
    "under": Place((-0.10, -0.14, 0.20), (-0.03, -0.07, 0.24), (-1.0, 0.1, 0.0), (0.0, 0.0, -1.0)),
    "above": Place((0.00, -0.02, 0.26), (0.06, 0.06, 0.31), (-1.0, 0.1, 0.0), (0.0, -0.6, -0.8)),
    "below": Place((0.00, -0.16, 0.24), (0.06, -0.08, 0.28), (-1.0, 0.1, 0.0), (0.0, 0.5, -0.8)),
    "joined": Place((0.055, -0.12, 0.25), (0.075, 0.08, 0.32), (-0.3, 0.7, 0.7), (-1.0, 0.0, 0.0)),
    "folded": Place((0.07, -0.26, 0.24), (0.11, -0.12, 0.29), (-0.8, -0.2, 0.5), (-0.3, 0.0, -0.9)),
}
# What one arm does without the other, and what both do together, with how often.
ALONE = {
    "side": 0.16, "low": 0.14, "hip": 0.05, "belt": 0.06, "chest": 0.07, "throat": 0.04, "chin": 0.04, "cheek": 0.05,
    "raised": 0.06, "overhead": 0.02, "shown": 0.05, "stop": 0.05, "point": 0.05, "near": 0.14, "wide": 0.07,
}  # fmt: skip
TOGETHER = {
    ("side", "side"): 0.26, ("low", "low"): 0.12, ("hip", "hip"): 0.09, ("belt", "belt"): 0.06, ("over", "under"): 0.07,
    ("under", "over"): 0.07, ("above", "below"): 0.06, ("below", "above"): 0.06, ("joined", "joined"): 0.06,
    ("folded", "folded"): 0.08, ("chest", "chest"): 0.04, ("raised", "raised"): 0.03, ("overhead", "overhead"): 0.02,
}  # fmt: skip


def pairs(n: int, rng: np.random.Generator, together: float = 0.4) -> np.ndarray:
    """(n, 2, ARM_DIMS) left and right arms; the share `together` of them do something with both. Fingers are zero."""
    alone = rng.choice(list(ALONE), (n, 2), p=_shares(ALONE))
    joint = np.array(list(TOGETHER))[rng.choice(len(TOGETHER), n, p=_shares(TOGETHER))]
    names = np.where(rng.random((n, 1)) < together, joint, alone)
    return held([PLACES[str(name)] for name in names.ravel()], rng).reshape(n, 2, ARM_DIMS)


def held(places: list[Place], rng: np.random.Generator) -> np.ndarray:
    """(N, ARM_DIMS) left arms whose hands are at `places`, fingers zero: for each the best of many."""
    low, high, fingers, palm, swivel = (
        np.repeat(np.array([getattr(p, name) for p in places]), _TRIES, 0)
        for name in ("low", "high", "fingers", "palm", "swivel")
    )
    many = len(low)
    arms = np.zeros((many, ARM_DIMS))
    arms[:, WRIST] = keep_outside_torso(rng.uniform(low, high))
    arms[:, SWIVEL] = rng.uniform(swivel[:, 0], swivel[:, 1])
    arms[:, PRONATION] = rng.uniform(-1.3, 1.4, many)
    arms[:, FLEXION] = np.clip(rng.normal(0.0, 0.38, many), -0.85, 0.85)
    arms[:, DEVIATION] = np.clip(rng.normal(0.0, 0.15, many), -0.3, 0.35)
    cost = _cost(arms, _unit(fingers), _unit(palm)) + 0.15 * rng.random(many)
    best = np.argmin(cost.reshape(-1, _TRIES), 1)
    return arms.reshape(-1, _TRIES, ARM_DIMS)[np.arange(len(places)), best]


def fingers(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 7) curls, spread and thumb: shapes that have names, mixtures of them, and every finger for itself."""
    shapes = _SHAPES[rng.integers(0, len(_SHAPES), n)]
    other = _SHAPES[rng.integers(0, len(_SHAPES), n)]
    shapes = shapes + 0.5 * rng.random((n, 1)) ** 2 * (other - shapes)
    single = rng.random((n, 1)) < 0.25
    shapes = np.where(single, rng.uniform(_LEAST, _MOST, shapes.shape), shapes)
    return np.clip(shapes + rng.normal(0.0, 0.05, shapes.shape), _LEAST, _MOST)


def clearance(arms: np.ndarray) -> np.ndarray:
    """(N,) how deep the deepest of elbow, wrist, knuckles and fingertips is in trunk or head: 0 outside, else in radii."""
    return _depth(arm_points(_solved(arms)))


def _cost(arms: np.ndarray, fingers: np.ndarray, palm: np.ndarray) -> np.ndarray:
    solved = _solved(arms)
    along, facing = hand_directions(solved)
    reach = np.linalg.norm(arms[:, WRIST] - body.COLLAR - body.SHOULDER, axis=1)
    missed = np.maximum(reach - 0.49, 0.0) + np.maximum(0.20 - reach, 0.0)
    strain = (arms[:, FLEXION] / 0.8) ** 2 + (arms[:, DEVIATION] / 0.3) ** 2 + (arms[:, PRONATION] / 1.4) ** 4
    unlike = np.linalg.norm(fingers, axis=1) - (along * fingers).sum(1)
    unlike += np.linalg.norm(palm, axis=1) - (facing * palm).sum(1)
    out: np.ndarray = unlike + 0.08 * strain + 20.0 * missed + 20.0 * _depth(arm_points(solved))
    return out


def _depth(points: np.ndarray) -> np.ndarray:
    tips = points[:, 3] + _FINGERTIP * (points[:, 4] - points[:, 3])
    at = np.concatenate([points[:, 2:], tips[:, None]], 1)  # (N, 4, 3) elbow, wrist, knuckles, fingertips
    wide, deep = at[..., 0] / body.TORSO_HALF_WIDTH, (at[..., 2] - body.TORSO_CENTRE_Z) / body.TORSO_HALF_DEPTH
    trunk = np.where(at[..., 1] < NECK, 1.0 - np.hypot(wide, deep), 0.0)
    head = 1.0 - np.linalg.norm(at - HEAD_CENTRE, axis=-1) / HEAD_RADIUS
    out: np.ndarray = np.maximum(np.maximum(trunk, head), 0.0).max(1)
    return out


def _solved(arms: np.ndarray) -> np.ndarray:
    return solve_arm(arms[:, WRIST], arms[:, SWIVEL], arms[:, PRONATION], arms[:, FLEXION], arms[:, DEVIATION])


def _unit(v: np.ndarray) -> np.ndarray:
    out: np.ndarray = v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)
    return out


def _shares(weights: dict[str, float] | dict[tuple[str, str], float]) -> np.ndarray:
    values = np.array(list(weights.values()))
    out: np.ndarray = values / values.sum()
    return out


_LEAST = np.array([-0.06, -0.06, -0.06, -0.06, -0.9, -0.1, -0.3])
_MOST = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 1.0])
_SHAPES = np.array(
    [  # curl of index, middle, ring, pinky, spread, thumb curl, thumb across
        [0.05, 0.05, 0.05, 0.05, -0.8, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -0.1],
        [0.25, 0.30, 0.35, 0.40, 0.2, 0.2, 0.3], [0.18, 0.24, 0.28, 0.32, -0.8, 0.15, 0.4],
        [0.35, 0.40, 0.45, 0.45, -0.6, 0.3, 0.5], [0.95, 1.0, 1.0, 1.0, 0.0, 0.7, 0.9],
        [0.0, 0.95, 1.0, 1.0, 0.2, 0.7, 1.0], [0.0, 0.95, 1.0, 1.0, 0.0, 0.1, 0.0],
        [0.0, 0.0, 1.0, 1.0, 0.8, 0.8, 1.0], [0.0, 0.0, 0.0, 1.0, 0.6, 0.6, 1.0],
        [0.0, 0.0, 0.0, 0.0, 0.6, 0.7, 1.0], [0.5, 0.3, 0.25, 0.2, 0.4, 0.5, 0.8], [0.5, 0.9, 0.95, 1.0, 0.1, 0.5, 0.8],
        [0.9, 0.95, 1.0, 1.0, 0.0, 0.0, -0.2], [0.5, 0.55, 0.6, 0.6, 0.4, 0.4, 0.5],
    ]
)  # fmt: skip
