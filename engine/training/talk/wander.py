"""A figure that wanders through all that a person before a camera may do: training material, not acting."""

from __future__ import annotations

import numpy as np

from engine.skeleton import EXPRESSION_DIMS
from engine.standin import EXPRESSION_NAMES, FULL_ACTIVATION
from engine.training.talk import idle
from engine.training.talk import kinematics as body
from engine.training.talk.figure import ARM_DIMS, CURL, Figure
from engine.training.talk.kinematics import arm_points, solve_arm
from engine.training.talk.tracks import slow_noise, smoothed, through

HEAD_TURN = 0.61  # radians: 35 degrees to either side
HEAD_CENTRE, HEAD_RADIUS = (np.array([0.0, 0.36, 0.07]), 0.17)  # metres, in the chest frame
_FINGERTIP = 1.9  # wrist to fingertips, in lengths of wrist to knuckles
_HAND_SHAPES = np.array(
    [  # curl of index, middle, ring, pinky, spread, thumb curl, thumb across
        [0.05, 0.05, 0.05, 0.05, 0.0, 0.0, 0.0], [0.05, 0.05, 0.05, 0.05, 1.0, 0.0, 0.0],
        [0.25, 0.30, 0.35, 0.40, 0.2, 0.2, 0.3], [0.95, 1.0, 1.0, 1.0, 0.0, 0.7, 0.9],
        [0.0, 0.95, 1.0, 1.0, 0.2, 0.7, 1.0], [0.0, 0.0, 1.0, 1.0, 0.8, 0.8, 1.0], [0.0, 0.0, 0.0, 1.0, 0.6, 0.6, 1.0],
        [0.5, 0.3, 0.25, 0.2, 0.4, 0.5, 0.8], [0.9, 0.95, 1.0, 1.0, 0.0, 0.0, 0.0], [0.5, 0.55, 0.6, 0.6, 0.4, 0.4,
        0.5], ]
)  # fmt: skip


def wander(times: np.ndarray, fps: float, rng: np.random.Generator) -> Figure:
    """A figure (T,) through random keys, smooth in time; the same for the same generator state."""
    frames = len(times)
    torso = np.tanh(slow_noise(times, rng, 4.0, 0.8, 3)) * [0.20, 0.38, 0.16] + [0.04, 0.0, 0.0]
    head = _keyed(times, rng, (0.8, 2.2), lambda n: _spread(rng, n, (0.45, HEAD_TURN, 0.35)))
    gaze = torso[:, :2] + head[:, :2] + _keyed(times, rng, (0.4, 1.5), lambda n: _spread(rng, n, (0.30, 0.45)), 0.12)
    gaze *= 0.5 + 0.5 * np.tanh(slow_noise(times, rng, 5.0, 3.0))  # now and then at the camera, whatever the head does
    jaw = np.zeros((frames, 3))
    jaw[:, 0] = _keyed(times, rng, (0.25, 1.2), lambda n: 0.36 * rng.random((n, 1)) ** 1.8)[:, 0]
    jaw[:, 1] = slow_noise(times, rng, 2.0, 0.015)[:, 0]
    return Figure(
        torso, head, slow_noise(times, rng, 5.0, 1.0, 3) * [0.03, 0.012, 0.02],
        smoothed(_keyed(times, rng, (0.5, 1.5), lambda n: _arm_keys(rng, n)), 0.05 * fps),
        smoothed(_keyed(times, rng, (0.5, 1.5), lambda n: _arm_keys(rng, n)), 0.05 * fps),
        jaw, gaze, _faces(times, rng),
    )  # fmt: skip


def _faces(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T, 100): a few expressions at a time, every one now and then in full, both lids together more often than not."""

    def keys(n: int) -> np.ndarray:
        names = len(EXPRESSION_NAMES)
        out = (rng.random((n, names)) < 0.08) * FULL_ACTIVATION * rng.random((n, names))
        deck = np.concatenate([rng.permutation(names) for _ in range(n // names + 1)])[:n]  # every one has its turn
        out[np.arange(n), deck] = FULL_ACTIVATION * rng.uniform(0.6, 1.0, n)
        left, right = (EXPRESSION_NAMES.index("blink_left"), EXPRESSION_NAMES.index("blink_right"))
        together = rng.random(n) < 0.8
        out[:, right] = np.where(together, out[:, left], out[:, right])
        return out

    out = np.zeros((len(times), EXPRESSION_DIMS))
    out[:, : len(EXPRESSION_NAMES)] = _keyed(times, rng, (0.35, 1.2), keys)
    blink = FULL_ACTIVATION * idle.blinks(times, rng)
    for name in ("blink_left", "blink_right"):
        column = EXPRESSION_NAMES.index(name)
        out[:, column] = np.maximum(out[:, column], blink)
    return out


def _arm_keys(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, ARM_DIMS) arms that a person can hold, with hand and forearm outside of trunk and head."""
    out = np.zeros((0, ARM_DIMS))
    while len(out) < n:
        many = 4 * n
        keys = np.zeros((many, ARM_DIMS))
        front = rng.random(many) < 0.7
        wide = rng.uniform((-0.02, -0.48, -0.05), (0.62, 0.48, 0.50), (many, 3))
        near = rng.uniform((0.02, -0.26, 0.24), (0.42, 0.26, 0.44), (many, 3))
        keys[:, :3] = np.where(front[:, None], near, wide)
        low = rng.random(many) < 0.12  # arms that hang
        keys[low, :3] = rng.uniform((0.20, -0.48, -0.02), (0.34, -0.38, 0.14), (int(low.sum()), 3))
        keys[:, 3] = rng.uniform(-0.1, 0.9, many)
        keys[:, 4] = rng.uniform(-1.2, 1.3, many)
        keys[:, 5] = np.clip(rng.normal(0.0, 0.35, many), -0.9, 0.9)
        keys[:, 6] = np.clip(rng.normal(0.0, 0.14, many), -0.3, 0.35)
        shapes = _HAND_SHAPES[rng.integers(0, len(_HAND_SHAPES), many)]
        shapes = (
            shapes + rng.random((many, 1)) * (_HAND_SHAPES[rng.integers(0, len(_HAND_SHAPES), many)] - shapes) * 0.6
        )
        keys[:, CURL.start :] = shapes + rng.normal(0.0, 0.05, shapes.shape)
        out = np.concatenate([out, keys[_possible(keys)]])
    return out[:n]


def _possible(keys: np.ndarray) -> np.ndarray:
    """(n,) bool: within reach, and elbow, wrist, and fingertips clear of trunk and head."""
    solved = solve_arm(keys[:, :3], keys[:, 3], keys[:, 4], keys[:, 5], keys[:, 6])
    points = arm_points(solved)
    tips = points[:, 3] + _FINGERTIP * (points[:, 4] - points[:, 3])
    reach = np.linalg.norm(keys[:, :3] - body.COLLAR - body.SHOULDER, axis=1)
    fine = (reach > 0.22) & (reach < 0.50)
    for point in (points[:, 2], points[:, 3], points[:, 4], tips):
        trunk = np.hypot(
            point[:, 0] / body.TORSO_HALF_WIDTH, (point[:, 2] - body.TORSO_CENTRE_Z) / body.TORSO_HALF_DEPTH
        )
        fine &= (trunk > 1.0) | (point[:, 1] > 0.22)
        fine &= np.linalg.norm(point - HEAD_CENTRE, axis=1) > HEAD_RADIUS
    clear: np.ndarray = fine
    return clear


def _keyed(
    times: np.ndarray, rng: np.random.Generator, gap: tuple[float, float], keys: object, hurry: float | None = None
) -> np.ndarray:
    """Minimum-jerk path through keys that are `gap` seconds apart; with `hurry` it waits and then jumps in that
    time."""
    gaps = rng.uniform(*gap, int((times[-1] - times[0]) / gap[0]) + 3)
    at = float(times[0]) - gap[1] + np.concatenate([[0.0], np.cumsum(gaps)])
    values = keys(len(at))  # type: ignore[operator]
    if hurry is None:
        return through(times, list(at), list(values))
    return through(
        times,
        list(np.stack([at[1:] - hurry, at[1:]], 1).ravel()),
        list(np.stack([values[:-1], values[1:]], 1).reshape(2 * len(at) - 2, -1)),
    )


def _spread(rng: np.random.Generator, n: int, limits: tuple[float, ...]) -> np.ndarray:
    """(n, D) within +-limits, the ends as likely as the middle."""
    return rng.uniform(-1.0, 1.0, (n, len(limits))) * limits
