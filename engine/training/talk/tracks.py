"""Curves over time that motion is made of: minimum-jerk paths through keys, slow noise, pulses. All smooth, all
seeded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ease(x: np.ndarray) -> np.ndarray:
    """Minimum-jerk step (Flash and Hogan 1985): 0 below 0, 1 above 1, no velocity or acceleration at either end."""
    x = np.clip(x, 0.0, 1.0)
    out: np.ndarray = x * x * x * (x * (6.0 * x - 15.0) + 10.0)
    return out


def through(times: np.ndarray, key_times: Sequence[float], keys: Sequence[np.ndarray]) -> np.ndarray:
    """Path (T, D) that rests at every key (D,) at its time and moves between them with minimum jerk."""
    at, values = np.asarray(key_times), np.asarray(keys)
    index = np.clip(np.searchsorted(at, times, side="right") - 1, 0, len(at) - 2)
    share = ease((times - at[index]) / (at[index + 1] - at[index]))
    out: np.ndarray = values[index] + share[:, None] * (values[index + 1] - values[index])
    return out


def slow_noise(times: np.ndarray, rng: np.random.Generator, period: float, size: float, dims: int = 1) -> np.ndarray:
    """(T, dims) of noise without end or repetition: eight sines of random phase about `period` seconds, deviation
    `size`."""
    waves = 8
    rate = 2.0 * np.pi / (period * rng.uniform(0.5, 2.2, (waves, dims)))
    phase = rng.uniform(0.0, 2.0 * np.pi, (waves, dims))
    out: np.ndarray = np.sin(times[:, None, None] * rate + phase).sum(1) * (size * np.sqrt(2.0 / waves))
    return out


def pulses(
    times: np.ndarray, at: Sequence[float], sizes: Sequence[float], rise: float, hold: float, fall: float
) -> np.ndarray:
    """(T,) sum of bumps that reach their size at `at`, keep it for `hold` seconds, and fade; overlaps take the
    larger."""
    out = np.zeros(len(times))
    for centre, size in zip(at, sizes, strict=True):
        low, high = np.searchsorted(times, (centre - rise, centre + hold + fall))
        t = times[low:high] - centre
        bump = size * ease(1.0 + t / rise) * ease(1.0 - (t - hold) / fall)
        stronger = np.abs(bump) > np.abs(out[low:high])
        out[low:high] = np.where(stronger, bump, out[low:high])
    return out


def smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing along the first axis, `sigma` in samples, ends held."""
    reach = max(1, round(3.0 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    flat = values.reshape(len(values), -1)
    padded = np.pad(flat, ((reach, reach), (0, 0)), mode="edge")
    out = np.stack([np.convolve(padded[:, i], kernel, "valid") for i in range(flat.shape[1])], 1)
    return out.reshape(values.shape)
