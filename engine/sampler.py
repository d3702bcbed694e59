"""How predictions move latents: the schedule's times, the rule of a step, guidance, and neighbours that agree.

It knows nothing of networks or windows. Arrays may be NumPy or torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine import steps
from engine.arrays import Array, copy
from engine.noise import Noise
from engine.steps import Prediction, Schedule, Times


@dataclass(frozen=True)
class Sampler:
    """How predictions move latents: times, rule and guidance."""

    schedule: Schedule
    times: Times
    prediction: Prediction = "epsilon"
    rule: Literal["ddim", "lcm", "tcd"] = "ddim"
    guidance: float = 1.0
    noise: Noise | None = None  # what LCM re-noises with, by frame and step, where the latents lie
    smoothing: float = 0.0  # how far neighbours of a window agree, see `agreed`

    def agreed(self, prediction: Array) -> Array:
        """The predictions (B, n, ...) of a window, each with a neighbour on both sides drawn towards their mean by `smoothing`.

        What stands still then stands stiller. Towards the past alone it would only lag: a window's first and last frame
        are left as they are, and so is the newest frame live.
        """
        if self.smoothing == 0.0 or prediction.shape[1] < 3:
            return prediction
        said = copy(prediction)
        neighbours = 0.5 * (prediction[:, 2:] + prediction[:, :-2])
        said[:, 1:-1] += self.smoothing * (neighbours - prediction[:, 1:-1])
        return said

    def guided(self, prediction: Array) -> Array:
        """(B, n, ...) to (n, ...): classifier-free guidance where there are two branches."""
        if len(prediction) == 1:
            return prediction[0]
        return prediction[0] + self.guidance * (prediction[1] - prediction[0])

    def step(self, sample: Array, prediction: Array, frames: range, index: int) -> Array:
        """Move the latents (n, C, h, w) of `frames` from step `index` to the next."""
        now, after = self.times.now[index], self.times.after[index]
        if self.rule == "ddim":
            return steps.ddim(self.schedule, sample, prediction, now, after, self.prediction)
        if self.rule == "tcd":
            return steps.tcd(self.schedule, sample, prediction, now, after, self.prediction, sample)
        if self.noise is None:
            raise ValueError("an LCM sampler needs its noise")
        fresh = copy(sample)
        for slot, frame in enumerate(frames):
            fresh[slot] = self.noise.at(frame, index + 1)
        return steps.lcm(self.schedule, sample, prediction, now, after, self.prediction, fresh)
