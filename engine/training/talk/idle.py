"""What a body does while it does nothing: breath, sway, blinks, small jumps of the eyes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.training.talk.tracks import ease, pulses, slow_noise

BLINK_RISE, BLINK_HOLD, BLINK_FALL = (0.045, 0.04, 0.065)  # seconds: 150 ms, and the hold is a frame at 25 fps


def breath(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T,) -1 to 1, about fifteen breaths a minute, in faster than out."""
    rate = 2.0 * np.pi / 4.0
    phase = times * rate + rng.uniform(0.0, 6.28) + slow_noise(times, rng, 15.0, 0.3)[:, 0]
    out: np.ndarray = np.sin(phase + 0.35 * np.sin(phase))
    return out


def blinks(times: np.ndarray, rng: np.random.Generator, phrase_ends: Sequence[float] = ()) -> np.ndarray:
    """(T,) 0 open to 1 shut: every two to five seconds, and sooner where a phrase ends."""
    at, now = [], float(times[0]) + rng.uniform(0.5, 2.0)
    while now < times[-1]:
        at.append(now)
        limit = now + float(np.clip(rng.normal(3.4, 0.9), 2.0, 5.0))
        ends = [e + 0.05 for e in phrase_ends if now + 1.2 < e + 0.05 < limit]
        now = ends[0] if ends and rng.random() < 0.6 else limit
    return pulses(times, at, [1.0] * len(at), BLINK_RISE, BLINK_HOLD, BLINK_FALL)


def gaze(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T, 2) pitch and yaw in the world: mostly the camera, with small saccades of 40 ms, now and then a look aside."""
    out = np.zeros((len(times), 2))
    now, here = float(times[0]), np.zeros(2)
    while now < times[-1]:
        aside = rng.random() < 0.1
        there = rng.normal(0.0, (0.06, 0.14)) if aside else rng.normal(0.0, (0.010, 0.018))
        out += ease((times - now) / 0.05)[:, None] * (there - here)
        here = there
        now += rng.uniform(0.35, 0.8) if aside else rng.uniform(0.6, 2.4)
    return out


def sway(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(T, 3) metres: the weight moves from foot to foot."""
    return slow_noise(times, rng, 7.0, 1.0, 3) * [0.008, 0.001, 0.004]
