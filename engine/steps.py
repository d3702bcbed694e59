"""Denoising steps as pure functions on (sample, prediction, timestep vector), one timestep per frame.

It knows the noise schedule and the update rules, nothing of networks or windows. Arrays may be NumPy or torch: only
operators are used, and coefficients become whatever the sample is. All arithmetic is in float32.

    schedule = Schedule()                                # Stable Diffusion 1.5
    times = spaced(schedule, 20)
    for now, after in times.pairs():
        sample = ddim(schedule, sample, predict(sample, now), now, after, "epsilon")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from engine.arrays import Array, column, float32

Prediction = Literal["epsilon", "v", "sample"]
END = -1  # the timestep after the last one: no noise left (or alpha of timestep 0, see Schedule.final_alpha)


@dataclass(frozen=True)
class Schedule:
    """How much signal is left at each training timestep (DDPM, arXiv 2006.11239, eq. 4). The defaults are SD 1.5's."""

    train_steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    kind: Literal["scaled_linear", "linear"] = "scaled_linear"
    spacing: Literal["leading", "trailing"] = "leading"
    steps_offset: int = 1  # added to leading timesteps
    set_alpha_to_one: bool = False  # what END means: all signal, or as much as at timestep 0

    @cached_property
    def alphas(self) -> np.ndarray:
        """Cumulative products alpha-bar, (train_steps,) float64."""
        if self.kind == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, self.train_steps)
        else:
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.train_steps) ** 2
        return np.cumprod(1.0 - betas)

    def alpha(self, timesteps: Any) -> np.ndarray:
        """alpha-bar of each of `timesteps` (n,), float64; END is the end of the chain."""
        t = np.asarray(timesteps, np.int64)
        final = 1.0 if self.set_alpha_to_one else self.alphas[0]
        return np.where(t < 0, final, self.alphas[np.maximum(t, 0)])


@dataclass(frozen=True)
class Times:
    """The timesteps that a sampler visits and, for each, the one it lands on."""

    now: tuple[int, ...]
    after: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.now)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """(timestep, the one after it) for each step."""
        return zip(self.now, self.after, strict=True)


def listed(timesteps: Sequence[int]) -> Times:
    """Given, falling timesteps: each step lands on the next of them, the last on END."""
    now = tuple(int(t) for t in timesteps)
    if not now or any(a <= b for a, b in pairwise(now)) or now[-1] < 0:
        raise ValueError(f"timesteps must be falling and not negative, got {now}")
    return Times(now, (*now[1:], END))


def spaced(schedule: Schedule, steps: int) -> Times:
    """`steps` timesteps over the whole schedule, as diffusers' DDIMScheduler chooses them."""
    if not 1 <= steps <= schedule.train_steps:
        raise ValueError(f"steps must lie in 1 to {schedule.train_steps}, got {steps}")
    ratio = schedule.train_steps // steps
    if schedule.spacing == "leading":
        now = np.arange(steps)[::-1] * ratio + schedule.steps_offset
    else:
        now = np.round(np.arange(schedule.train_steps, 0, -schedule.train_steps / steps)).astype(np.int64) - 1
    now = np.minimum(now, schedule.train_steps - 1)
    # The landing point is a fixed stride below, also where rounding put the next timestep one beside it.
    return Times(tuple(now.tolist()), tuple(max(t - ratio, END) for t in now.tolist()))


def few(schedule: Schedule, steps: int, stride: int = 20) -> Times:
    """`steps` timesteps from the noisiest on, as diffusers' LCMScheduler chooses them: for distilled networks.

    They are of every `stride`-th, those that distillation with that stride has seen.
    """
    seen = np.arange(schedule.train_steps - 1, 0, -stride)
    if not 1 <= steps <= len(seen):
        raise ValueError(f"steps must lie in 1 to {len(seen)}, got {steps}")
    return listed(seen[np.arange(steps) * len(seen) // steps].tolist())


def ddim(
    schedule: Schedule, sample: Array, prediction: Array, now: Any, after: Any, kind: Prediction = "epsilon"
) -> Array:
    """One deterministic DDIM step (arXiv 2010.02502, eq. 12 with eta 0) from timesteps `now` to `after`.

    `sample`, `prediction`: (n, ...). `now`, `after`: an int, or n of them, one per frame.
    """
    clean, noise = split(schedule, sample, prediction, now, kind)
    signal, sigma = _coefficients(schedule, after, clean)
    return signal * clean + sigma * noise


def consistency(schedule: Schedule, sample: Array, prediction: Array, now: Any, kind: Prediction) -> Array:
    """f(z_t, t) = c_skip(t) z_t + c_out(t) z_0 (arXiv 2310.04378, eq. 9): the clean estimate, and at timestep 0 the sample."""
    clean, _ = split(schedule, sample, prediction, now, kind)
    t = 10.0 * np.asarray(now, np.float64)  # timestep scaling 10 and sigma_data 0.5, as the authors distil
    skip, out = 0.25 / (t**2 + 0.25), t / (t**2 + 0.25) ** 0.5
    return column(out, clean) * clean + column(skip, clean) * float32(sample)


def lcm(
    schedule: Schedule, sample: Array, prediction: Array, now: Any, after: Any, kind: Prediction, noise: Array
) -> Array:
    """One LCM step (arXiv 2310.04378, algorithm 3): to the clean estimate, then up to `after` with `noise` (n, ...).

    Frames whose `after` is END come out clean. A frame that keeps its noise from step to step does not flicker.
    """
    denoised = consistency(schedule, sample, prediction, now, kind)
    last = np.asarray(after) < 0
    alpha = schedule.alpha(after)
    signal = column(np.where(last, 1.0, alpha**0.5), denoised)
    sigma = column(np.where(last, 0.0, (1.0 - alpha) ** 0.5), denoised)
    return signal * denoised + sigma * float32(noise)


def tcd(
    schedule: Schedule,
    sample: Array,
    prediction: Array,
    now: Any,
    after: Any,
    kind: Prediction,
    noise: Array,
    eta: float = 0.0,
) -> Array:
    """One TCD step (arXiv 2402.19159, algorithm 4): down to (1 - eta) `after`, then noised up to `after`.

    With eta 0 it is deterministic and `noise` is not used. A last step lands on timestep 0, as diffusers' does.
    """
    target = np.maximum(np.asarray(after, np.int64), 0)
    between = np.floor((1.0 - eta) * target).astype(np.int64)
    last = np.asarray(after) < 0
    clean, estimate = split(schedule, sample, prediction, now, kind)
    signal, sigma = _coefficients(schedule, between, clean)
    landed = signal * clean + sigma * estimate
    if eta == 0.0:
        return landed
    ratio = np.where(last, 1.0, schedule.alpha(target) / schedule.alpha(between))
    return column(ratio**0.5, clean) * landed + column((1.0 - ratio) ** 0.5, clean) * float32(noise)


def split(schedule: Schedule, sample: Array, prediction: Array, now: Any, kind: Prediction) -> tuple[Array, Array]:
    """What the network said, as (clean sample, noise), whichever of the three it predicts."""
    sample, prediction = float32(sample), float32(prediction)
    signal, sigma = _coefficients(schedule, now, sample)
    if kind == "epsilon":
        return (sample - sigma * prediction) / signal, prediction
    if kind == "v":
        return signal * sample - sigma * prediction, signal * prediction + sigma * sample
    return prediction, (sample - signal * prediction) / sigma


def add_noise(schedule: Schedule, clean: Array, noise: Array, now: Any) -> Array:
    """The forward process: `clean` (n, ...) with `noise` mixed in as at timesteps `now`."""
    signal, sigma = _coefficients(schedule, now, clean)
    return signal * float32(clean) + sigma * float32(noise)


def _coefficients(schedule: Schedule, timesteps: Any, like: Array) -> tuple[Array, Array]:
    alpha = schedule.alpha(timesteps)
    return column(alpha**0.5, like), column((1.0 - alpha) ** 0.5, like)
