"""A figure that wanders through all that a person before a camera may do: training material, not acting."""

from __future__ import annotations

import numpy as np

from engine.skeleton import EXPRESSION_DIMS
from engine.standin import EXPRESSION_NAMES, FULL_ACTIVATION
from engine.training.talk import idle
from engine.training.talk.figure import CURL, Figure
from engine.training.talk.places import fingers, pairs
from engine.training.talk.tracks import slow_noise, smoothed, through

HEAD_TURN = 1.05  # radians: 60 degrees to either side, nearly reached, for turns are softly limited
FACE_TURN = 1.4  # radians that torso and head turn together at most: beyond it there is no face to paint
WIDEST_JAW = 0.36  # radians


def wander(times: np.ndarray, fps: float, rng: np.random.Generator) -> Figure:
    """A figure (T,) through random keys, smooth in time; the same for the same generator state."""
    torso = np.tanh(slow_noise(times, rng, 5.0, 0.8, 3)) * [0.42, 0.62, 0.28] + [0.05, 0.0, 0.0]
    root = np.tanh(slow_noise(times, rng, 6.0, 0.8, 3)) * [0.34, 0.30, 0.16]
    torso[:, 0] -= 0.7 * root[:, 0]  # who leans at the hip mostly straightens the back
    torso[:, 2] -= 0.5 * root[:, 2]
    head = _keyed(times, rng, (1.0, 2.4), lambda n: _spread(rng, n, (0.50, 1.5 * HEAD_TURN, 0.42), 1.3))
    yaw = torso[:, 1] + root[:, 1]
    head[:, 1] = FACE_TURN * np.tanh((yaw + head[:, 1]) / FACE_TURN) - yaw
    head[:, 1] = HEAD_TURN * np.tanh(head[:, 1] / HEAD_TURN)
    facing = (root + torso + head)[:, :2]
    gaze = facing + _keyed(times, rng, (0.4, 1.5), lambda n: _spread(rng, n, (0.35, 0.55)), 0.12)
    gaze *= 0.5 + 0.5 * np.tanh(slow_noise(times, rng, 5.0, 3.0))  # now and then at the camera, whatever the head does
    laughing = _keyed(times, rng, (0.7, 2.0), lambda n: (rng.random((n, 1)) < 0.12) * rng.uniform(0.5, 1.0, (n, 1)))
    jaw = np.zeros((len(times), 3))
    jaw[:, 0] = _keyed(times, rng, (0.25, 1.2), lambda n: WIDEST_JAW * rng.random((n, 1)) ** 1.8)[:, 0]
    jaw[:, 0] = np.maximum(jaw[:, 0], 0.95 * WIDEST_JAW * laughing[:, 0])
    jaw[:, 1] = slow_noise(times, rng, 2.0, 0.015)[:, 0]
    left, right = _arms(times, fps, rng)
    carriage = _keyed(times, rng, (0.6, 2.0), lambda n: _carriage(rng, n))
    knuckles = np.tanh(slow_noise(times, rng, 2.5, 0.8, 90).reshape(-1, 3)) * [0.08, 0.10, 0.15]
    return Figure(
        torso, head, slow_noise(times, rng, 5.0, 1.0, 3) * [0.025, 0.010, 0.018], left, right, jaw, gaze,
        _faces(times, rng, laughing[:, 0]), root, carriage, knuckles.reshape(-1, 90),
    )  # fmt: skip


def _arms(times: np.ndarray, fps: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Both arms, each (T, ARM_DIMS): places one after the other, the fingers in a time of their own."""

    def keys(n: int) -> np.ndarray:
        out = pairs(n, rng)
        waits = rng.random((n, 2)) < 0.15  # one hand moves, the other stays
        for i in range(1, n):
            out[i, waits[i]] = out[i - 1, waits[i]]
        return out.reshape(n, -1)

    both = _keyed(times, rng, (0.7, 1.7), keys).reshape(len(times), 2, -1)
    for side in range(2):
        both[:, side, CURL.start :] = _keyed(times, rng, (0.5, 1.6), lambda n: fingers(n, rng))
    both = smoothed(both, 0.05 * fps)
    return both[:, 0], both[:, 1]


def _carriage(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 8) a little of everything, one time in eight both shoulders raised as in a shrug."""
    out = rng.normal(0.0, (0.09, 0.10, 0.28, 0.20), (n, 2, 4)).clip(-0.45, 0.45) - [0.03, 0.0, 0.0, 0.0]
    out[:, :, :2] = out[:, :, :2].clip(-0.25, 0.25)
    out[:, :, 0] += (rng.random((n, 1)) < 0.12) * rng.uniform(0.1, 0.3, (n, 1))
    return out.reshape(n, 8)


def _faces(times: np.ndarray, rng: np.random.Generator, laughing: np.ndarray) -> np.ndarray:
    """(T, 100): where it is not `laughing` (T,), a few expressions at a time, every one now and then in full, both lids together more often than not."""

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
    for name in ("smile", "cheeks_up", "squint", "lips_wide"):
        column = EXPRESSION_NAMES.index(name)
        out[:, column] = np.maximum(out[:, column], FULL_ACTIVATION * laughing)
    shut = _keyed(times, rng, (0.5, 1.5), lambda n: (rng.random((n, 1)) < 0.08) * 1.0)[:, 0]
    blink = FULL_ACTIVATION * np.maximum(idle.blinks(times, rng), shut)
    for name in ("blink_left", "blink_right"):
        column = EXPRESSION_NAMES.index(name)
        out[:, column] = np.maximum(out[:, column], blink)
    return out


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


def _spread(rng: np.random.Generator, n: int, limits: tuple[float, ...], power: float = 1.0) -> np.ndarray:
    """(n, D) within +-limits, the ends as likely as the middle; a larger `power` favours the middle."""
    part = rng.uniform(-1.0, 1.0, (n, len(limits)))
    return np.sign(part) * np.abs(part) ** power * limits
