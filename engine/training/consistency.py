"""Consistency distillation (LCM, arXiv 2310.04378, algorithm 1): a student learns to be where its teacher's trajectory ends.

    L = E d(f_theta(z_t, t), f_average(z_s, s)),  s = t - k

z_s is where one DDIM step of the frozen, guided teacher from z_t lands (the solver of eq. 14), f the consistency function of eq. 9,
and the target's weights the slow average of the student's. It knows models as functions, nothing of networks, frames or pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from engine import steps
from engine.networks.tensors import Tensors
from engine.noise import Noise
from engine.sampler import Sampler
from engine.steps import Prediction, Schedule
from engine.training.batches import CPU

Model = Callable[[Tensor, np.ndarray], Tensor]  # latents (N, ...) at timesteps (N,) to a prediction (N, ...)


@dataclass(frozen=True)
class Distillation:
    """What a distilled model is for.

    `to`: the numbers of steps that it is to be run with. `guidance`: the teacher's, baked in, so that the student needs no second
    branch; each window draws its own within `spread` of it. `pixels`: how much the pictures' own loss weighs beside the teacher.
    """

    to: tuple[int, ...] = (1, 2, 4)
    guidance: float = 1.0
    spread: float = 0.1
    pixels: float = 0.0
    stride: int = 20


@dataclass(frozen=True)
class Consistency:
    """The schedule, what the models predict, and the skipping step k in timesteps (section 4.3: 20)."""

    schedule: Schedule = field(default_factory=Schedule)
    prediction: Prediction = "sample"
    stride: int = 20

    @property
    def grid(self) -> np.ndarray:
        """The solver's timesteps, falling."""
        return np.arange(self.schedule.train_steps - 1, 0, -self.stride)

    def timesteps(self, to: tuple[int, ...]) -> np.ndarray:
        """Timesteps to draw from: all of the solver's, and as many again of those that `to` (1, 2, 4, ...) steps visit."""
        visited = np.concatenate([steps.few(self.schedule, count, self.stride).now for count in to])
        return np.concatenate([self.grid, np.resize(visited, len(self.grid))])

    def estimate(self, model: Model, sample: Tensor, now: np.ndarray) -> Tensor:
        """f(z_t, t), (N, ...) float32."""
        clean: Tensor = steps.consistency(self.schedule, sample, model(sample, now), now, self.prediction)
        return clean

    @torch.no_grad()
    def sampled(
        self,
        model: Model,
        count: int,
        noise: Noise,
        frames: range = range(1),
        rule: Literal["lcm", "ddim"] = "lcm",
        device: torch.device = CPU,
    ) -> Tensor:
        """Clean samples (n, ...) of `frames` after `count` steps, moved as the live engine moves them."""
        times = steps.few(self.schedule, count, self.stride)
        noise = replace(noise, home=Tensors(device))
        sampler = Sampler(self.schedule, times, self.prediction, rule, noise=noise)
        sample = torch.stack([noise.at(frame) for frame in frames])
        for index, now in enumerate(times.now):
            sample = sampler.step(sample, model(sample, np.full(len(sample), now)), frames, index)
        return sample

    @torch.no_grad()
    def target(self, teacher: Model, average: Model, sample: Tensor, now: np.ndarray) -> Tensor:
        """f_average(z_s, s) of the same trajectory, one step of the teacher's solver further down."""
        after = np.maximum(now - self.stride, 0)
        moved = steps.ddim(self.schedule, sample, teacher(sample, now), now, after, self.prediction)
        return self.estimate(average, moved, after)


def guided(model: Model, nobody: Model, scale: Tensor) -> Model:
    """Classifier-free guidance of `scale` (N,), 1 for none: its solver is the augmented one of eq. 14, omega = scale - 1."""

    def predict(sample: Tensor, now: np.ndarray) -> Tensor:
        free, told = nobody(sample, now).float(), model(sample, now).float()
        return free + scale.reshape(-1, *[1] * (sample.ndim - 1)) * (told - free)

    return predict


def pseudo_huber(error: Tensor, c: float = 1e-3) -> Tensor:
    """sqrt(error^2 + c^2) - c (arXiv 2310.14189, section 3.3), of each element."""
    return (error**2 + c * c).sqrt() - c
