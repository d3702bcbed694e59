"""Co-speech gestures of the arms: postures by name, and a plan that lands their strokes on stressed syllables.

A gesture has the phases of Kendon (1980): preparation, stroke, hold, retraction. Postures are those of figure.py's arm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.training.talk.figure import ARM_DIMS, CURL
from engine.training.talk.tracks import smoothed, through

PREPARE, STROKE, RETRACT = 0.42, 0.26, 0.65  # seconds
HOLD = 0.45  # seconds after the last stroke, before the arm goes home


@dataclass(frozen=True, slots=True)
class Accent:
    """A stressed syllable: when, and how much (about 1)."""

    time: float
    strength: float


@dataclass(frozen=True, slots=True)
class Phrase:
    """Speech between two pauses, the text of the sentence that it belongs to, and its accents."""

    start: float
    end: float
    text: str
    opens: bool  # whether it begins the sentence
    accents: tuple[Accent, ...]


def _arm(
    wrist: tuple[float, float, float], swivel: float, pronation: float, flexion: float = 0.0, deviation: float = 0.0,
    curl: tuple[float, float, float, float] = (0.22, 0.28, 0.32, 0.36), spread: float = 0.2, thumb_curl: float = 0.2,
    thumb_across: float = 0.3,
) -> np.ndarray:  # fmt: skip
    return np.array([*wrist, swivel, pronation, flexion, deviation, *curl, spread, thumb_curl, thumb_across])


REST = _arm((0.125, -0.095, 0.285), 0.25, 0.25, 0.15, 0.0)
REST_OVER = _arm((0.115, -0.075, 0.315), 0.25, 0.35, 0.20, 0.0)  # the hand that lies on the other
POSTURES: dict[str, np.ndarray] = {
    "offer": _arm((0.21, -0.02, 0.36), 0.30, -0.95, -0.10, 0.0, (0.10, 0.14, 0.18, 0.22), 0.5, 0.1, 0.1),
    "wide": _arm((0.33, -0.01, 0.31), 0.35, -0.70, -0.15, 0.0, (0.10, 0.12, 0.16, 0.20), 0.7, 0.1, 0.0),
    "chop": _arm((0.17, 0.02, 0.37), 0.30, 0.05, 0.0, 0.0, (0.10, 0.12, 0.14, 0.18), 0.0, 0.2, 0.2),
    "pinch": _arm((0.18, 0.05, 0.36), 0.35, 0.45, -0.15, 0.0, (0.46, 0.30, 0.24, 0.20), 0.5, 0.45, 0.8),
    "frame": _arm((0.19, 0.0, 0.36), 0.45, 0.10, 0.10, 0.1, (0.25, 0.28, 0.30, 0.32), 0.6, 0.1, 0.2),
    "down": _arm((0.2, -0.01, 0.36), 0.50, 1.05, -0.15, 0.0, (0.15, 0.18, 0.20, 0.24), 0.4, 0.1, 0.1),
    "self": _arm((0.175, 0.03, 0.27), 0.45, 0.15, 0.35, 0.0, (0.14, 0.18, 0.20, 0.24), 0.3, 0.1, 0.2),
    "count": _arm((0.26, 0.09, 0.26), 0.25, 0.85, -0.35, 0.0, (0.0, 0.95, 0.97, 0.95), 0.4, 0.7, 1.0),
}
_COUNTS = {"first": (0.0, 0.95, 0.97, 0.95), "second": (0.0, 0.0, 0.95, 0.95), "third": (0.0, 0.0, 0.0, 0.9)}
_BEATS = ("offer", "wide", "chop", "pinch", "frame", "down")
_LIFT = np.zeros(ARM_DIMS)
_LIFT[:6] = (0.0, 0.055, -0.02, 0.08, 0.0, -0.12)  # how a hand is raised before it strikes


def arms(
    phrases: Sequence[Phrase], times: np.ndarray, rng: np.random.Generator, calm: float = 0.35
) -> tuple[np.ndarray, np.ndarray]:
    """Left and right arm over time, each (T, ARM_DIMS), for spoken `phrases`; `calm` is the share of them without a
    gesture."""
    plans = {"left": _Plan(REST_OVER, rng), "right": _Plan(REST, rng)}
    for phrase in phrases:
        accents = _spaced(phrase.accents, 0.75)[:4]
        posture, sides = _chosen(phrase, rng, calm)
        if not accents or posture is None:
            continue
        for side in sides:
            plans[side].gesture(posture, [a.time for a in accents], [a.strength for a in accents], phrase.end)
    fps = (len(times) - 1) / max(times[-1] - times[0], 1e-6)
    return plans["left"].path(times, fps), plans["right"].path(times, fps)


def _chosen(phrase: Phrase, rng: np.random.Generator, calm: float) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """What a phrase asks for by its words, or a beat by chance, and the arms that make it."""
    words = re.findall(r"[a-z]+", phrase.text.lower())
    sides = (("left", "right"), ("right",), ("left",))[rng.choice(3, p=(0.45, 0.30, 0.25))]
    if phrase.opens and words and words[0] in _COUNTS:
        posture = POSTURES["count"].copy()
        posture[CURL] = _COUNTS[words[0]]
        return posture, ("right",)
    if phrase.opens and words and words[0] == "i" and rng.random() < 0.7:
        return POSTURES["self"], ("right",)
    if phrase.opens and ("you" in words or "welcome" in words) and rng.random() < 0.7:
        return POSTURES["offer"], sides
    if rng.random() < calm:
        return None, sides
    return POSTURES[str(rng.choice(_BEATS))], sides


def _spaced(accents: Sequence[Accent], gap: float) -> list[Accent]:
    """The strongest accents of which no two are nearer than `gap` seconds, in order."""
    kept: list[Accent] = []
    for accent in sorted(accents, key=lambda a: -a.strength):
        if all(abs(accent.time - other.time) >= gap for other in kept):
            kept.append(accent)
    return sorted(kept, key=lambda a: a.time)


class _Plan:
    """Keys of one arm, in order of time."""

    def __init__(self, rest: np.ndarray, rng: np.random.Generator) -> None:
        self._rest, self._rng = rest, rng
        self._times, self._keys = [-1.0], [rest]

    def gesture(self, posture: np.ndarray, at: list[float], strength: list[float], phrase_end: float) -> None:
        """Strokes at `at`; the arm goes home after the phrase."""
        ready = at[0] - STROKE
        begin = ready - PREPARE
        if begin - self._times[-1] >= 0.05:
            self._add(begin, self._keys[-1])
        elif len(self._times) > 1:  # not yet home: go on from where the last gesture held
            self._times.pop()
            self._keys.pop()
        for time, size in zip(at, strength, strict=True):
            varied = posture + self._rng.normal(0.0, 1.0, ARM_DIMS) * _VARIATION
            self._add(time - STROKE, varied + _LIFT * (0.6 + 0.5 * size))
            self._add(time + 0.03, varied - 0.25 * _LIFT * size)
        held = max(min(phrase_end, at[-1] + 1.1), at[-1] + 0.15) + self._rng.uniform(0.3, 1.0) * HOLD
        self._add(held, self._keys[-1] + self._rng.normal(0.0, 0.3, ARM_DIMS) * _VARIATION)
        self._add(held + RETRACT, self._rest + self._rng.normal(0.0, 0.5, ARM_DIMS) * _VARIATION)

    def path(self, times: np.ndarray, fps: float) -> np.ndarray:
        """(T, ARM_DIMS), the corners of timing rounded over 40 ms."""
        return smoothed(through(times, [*self._times, times[-1] + 100.0], [*self._keys, self._keys[-1]]), 0.04 * fps)

    def _add(self, time: float, key: np.ndarray) -> None:
        while len(self._times) > 1 and time - self._times[-1] < _GAP:  # no room: the later key wins
            self._times.pop()
            self._keys.pop()
        self._times.append(time)
        self._keys.append(key)


_GAP = 0.24  # seconds between keys at least
_VARIATION = np.array(
    [0.015, 0.015, 0.015, 0.06, 0.10, 0.06, 0.04, 0.04, 0.04, 0.04, 0.04, 0.10, 0.05, 0.05]
)  # standard deviations, so that no two strokes are alike
