"""Phonemes to mouth movement: the jaw's angle and the lips' expression coefficients, with coarticulation.

After Cohen and Massaro (1993), "Modeling coarticulation in synthetic visual speech": every phoneme pulls each channel
to its target with a dominance that fades to both sides, and the mouth follows the weighted mean. On top, sounds that
cannot be made with an open mouth (m, b, p, and f, v at the teeth) override their neighbours, since a closure missed
is what an eye sees first. It knows nothing of sound but the phonemes' times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.training.talk.speech import SILENCE, Phoneme
from engine.training.talk.tracks import ease

LEAD = 0.04  # seconds by which lips run ahead of the sound that they shape
CHANNELS = (
    "jaw", "lips_part", "lips_wide", "lips_kiss", "lips_press", "lip_bite", "lips_forward", "upper_lip_up",
    "lower_lip_down", "tongue_up",
)  # fmt: skip  # the jaw in radians, the others as expression coefficients, where 3 is full


@dataclass(frozen=True, slots=True)
class Viseme:
    """Where a sound pulls the mouth. `jaw` in radians; `lips` by channel, the others rest. `strength` against its
    neighbours; `closes` where the mouth must arrive whatever stands beside it."""

    jaw: float
    lips: tuple[tuple[str, float], ...] = ()
    strength: float = 1.0
    closes: bool = False


def _v(jaw: float, strength: float = 1.0, closes: bool = False, **lips: float) -> Viseme:
    return Viseme(jaw, tuple(lips.items()), strength, closes)


REST = _v(0.0, 0.7, lips_press=0.4)
VISEMES: dict[str, Viseme] = {
    SILENCE: REST,
    "aa": _v(0.215, 1.3, lips_part=0.8), "ae": _v(0.19, 1.3, lips_wide=0.9, lips_part=0.8, upper_lip_up=0.4),
    "ah": _v(0.15, 1.0, lips_part=0.7), "ax": _v(0.095, 0.6, lips_part=0.6),
    "ao": _v(0.19, 1.3, lips_kiss=0.9, lips_forward=0.5), "aw": _v(0.2, 1.3, lips_part=0.5, lips_kiss=0.5),
    "ay": _v(0.19, 1.3, lips_part=0.8, lips_wide=0.5), "eh": _v(0.145, 1.1, lips_wide=0.8, lips_part=0.7),
    "er": _v(0.095, 1.0, lips_kiss=0.8, lips_part=0.5), "ey": _v(0.135, 1.2, lips_wide=1.2, lips_part=0.7),
    "ih": _v(0.09, 0.8, lips_wide=0.8, lips_part=0.8), "iy": _v(0.065, 1.1, lips_wide=1.7, lips_part=0.9),
    "ow": _v(0.145, 1.5, lips_kiss=1.7, lips_forward=0.7), "oy": _v(0.16, 1.3, lips_kiss=1.3, lips_forward=0.6),
    "uh": _v(0.095, 0.9, lips_kiss=1.2, lips_part=0.3), "uw": _v(0.07, 1.7, lips_kiss=2.3, lips_forward=1.0),
    "w": _v(0.055, 1.7, lips_kiss=2.5, lips_forward=1.0), "y": _v(0.065, 0.6, lips_wide=1.0, lips_part=0.6),
    "r": _v(0.07, 0.8, lips_kiss=1.1, lips_part=0.4, lips_forward=0.4), "hh": _v(0.095, 0.3, lips_part=0.6),
    "m": _v(0.0, 1.6, True, lips_press=1.6), "b": _v(0.0, 1.6, True, lips_press=2.0),
    "p": _v(0.0, 1.6, True, lips_press=2.2),
    "f": _v(0.025, 1.4, True, lip_bite=2.4, upper_lip_up=0.6), "v": _v(0.03, 1.4, True, lip_bite=2.0, upper_lip_up=0.5),
    "s": _v(0.03, 1.1, lips_wide=1.1, lips_part=1.3, lower_lip_down=0.4),
    "z": _v(0.03, 1.0, lips_wide=1.0, lips_part=1.2, lower_lip_down=0.4),
    "sh": _v(0.04, 1.2, lips_kiss=1.3, lips_forward=1.2, lips_part=1.2),
    "zh": _v(0.04, 1.1, lips_kiss=1.2, lips_forward=1.0, lips_part=1.1),
    "ch": _v(0.04, 1.2, lips_kiss=1.2, lips_forward=1.1, lips_part=1.2),
    "jh": _v(0.04, 1.1, lips_kiss=1.1, lips_forward=1.0, lips_part=1.1),
    "t": _v(0.05, 0.6, lips_part=0.9, tongue_up=1.5), "d": _v(0.055, 0.6, lips_part=0.9, tongue_up=1.5),
    "n": _v(0.055, 0.6, lips_part=0.8, tongue_up=1.5), "l": _v(0.08, 0.7, lips_part=0.8, tongue_up=2.2),
    "th": _v(0.055, 0.9, lips_part=1.0, tongue_up=1.8), "dh": _v(0.055, 0.7, lips_part=0.9, tongue_up=1.6),
    "k": _v(0.08, 0.4, lips_part=0.6), "g": _v(0.08, 0.4, lips_part=0.6), "ng": _v(0.08, 0.4, lips_part=0.6),
}  # fmt: skip
VOWELS = frozenset(["aa", "ae", "ah", "ax", "ao", "aw", "ay", "eh", "er", "ey", "ih", "iy", "ow", "oy", "uh", "uw"])
BILABIALS = frozenset(["m", "b", "p"])

_SLOPE = 1.0 / 0.055  # a dominance falls by e over 55 ms beyond the sound
_PLATEAU = 0.05  # seconds that a closure lasts at least, longer than a frame at 25 fps
_RAMP = 0.055  # seconds to close and to open


def mouth(phonemes: Sequence[Phoneme], times: np.ndarray, loudness: np.ndarray | None = None) -> np.ndarray:
    """Channels over time: (T, len(CHANNELS)) at `times` (T,) seconds.

    `loudness` (T,) about 1 for ordinary speech opens the jaw wider or less wide; closures stay closed.
    """
    targets = np.array([_target(p) for p in phonemes])  # (P, C)
    total = np.zeros((len(times), len(CHANNELS)))
    weight = np.full(len(times), 1e-9)
    closing = np.zeros((len(times), len(CHANNELS)))
    closed = np.full(len(times), 1e-9)
    gate = np.zeros(len(times))
    for p, target in zip(phonemes, targets, strict=True):
        viseme = VISEMES.get(p.name, REST)
        start, end = p.start - LEAD, p.end - LEAD
        low, high = np.searchsorted(times, (start - 0.5, end + 0.5))
        t = times[low:high]
        distance = np.maximum(np.maximum(start - t, t - end), 0.0) + 0.3 * np.minimum(
            np.abs(t - 0.5 * (start + end)), 0.08
        )
        dominance = viseme.strength * np.exp(-((distance * _SLOPE) ** 1.3))
        total[low:high] += dominance[:, None] * target
        weight[low:high] += dominance
        if viseme.closes:
            middle, half = (0.5 * (start + end), 0.5 * max(min(end - start, 0.09), _PLATEAU))
            shut = ease(1.0 - (np.abs(t - middle) - half) / _RAMP)
            closing[low:high] += shut[:, None] * target
            closed[low:high] += shut
            gate[low:high] = np.maximum(gate[low:high], shut)
    open_mouth = total / weight[:, None]
    if loudness is not None:
        open_mouth[:, 0] *= loudness
    out: np.ndarray = (1.0 - gate[:, None]) * open_mouth + gate[:, None] * closing / closed[:, None]
    return out.clip(0.0)


def _target(phoneme: Phoneme) -> np.ndarray:
    viseme = VISEMES.get(phoneme.name, REST)
    lips = dict(viseme.lips)
    return np.array([viseme.jaw] + [lips.get(name, 0.0) for name in CHANNELS[1:]])
