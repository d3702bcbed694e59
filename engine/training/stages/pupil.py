"""A structure-guided network that learns from a frozen copy of itself: what consistency distillation asks of networks.

The UNet alone learns. Hint encoder and ControlNet stay what they are, so the ControlNet is asked once for teacher and student.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.networks.attention import Scope
from engine.networks.diffusion import Residuals, StructureGuided
from engine.noise import Noise
from engine.training.batches import CPU
from engine.training.consistency import Consistency, Model, guided


@dataclass(frozen=True)
class Seen:
    """What networks see beside the noisy latents of N frames, and which of the frames see each other."""

    hint: Tensor  # (N, Ch, h, w), or the condition (N, 3, H, W) without a hint encoder
    tokens: Tensor  # (N or 1, n, D)
    frames: int = 1  # of a window
    causal: bool = False


class Pupil:
    """A student and its teacher, guided where there are tokens (1, n, D) for `nobody`. They are on `device` both."""

    def __init__(
        self,
        student: StructureGuided,
        what: Consistency,
        nobody: Tensor | None = None,
        scope: Scope = "frame",
        device: torch.device = CPU,
    ) -> None:
        self.what, self.student, self.scope, self.device = what, student.to(device), scope, device
        self.nobody = None if nobody is None else nobody.to(device)
        self.teacher = StructureGuided(deepcopy(student.unet), student.controlnet, student.hint, student.control_scale)
        self.teacher.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher.requires_grad_(False)
        student.unet.requires_grad_(True)
        self._many: list[Tensor] = []

    def lesson(
        self, average: StructureGuided, noisy: Tensor, timestep: Tensor, seen: Seen, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the student makes of `noisy` (N, C, h, w) at `timestep` (N,), and its target; the teacher is guided by `scale` (N,)."""
        now = timestep.cpu().numpy()
        networks = (self.student, average, self.teacher)
        for network in networks:
            network.set_window(seen.frames, self.scope, seen.causal)
        residuals = self.student.residuals(noisy, timestep, seen.hint, seen.tokens)
        target = self.what.target(self.taught(scale, seen, residuals), model(average, seen), noisy, now)
        clean = self.what.estimate(model(self.student, seen, residuals), noisy, now)
        for network in networks:
            network.set_window(1)
        return clean, target

    def taught(self, scale: Tensor, seen: Seen, residuals: Residuals | None = None) -> Model:
        """The teacher, guided where it has a branch for nobody."""
        teacher = model(self.teacher, seen, residuals)
        if self.nobody is None:
            return teacher
        return guided(teacher, model(self.teacher, Seen(seen.hint, self.nobody)), scale)

    def ends(
        self, average: StructureGuided, noise: Noise, to: Sequence[int], guidance: float, seen: Seen, at: int
    ) -> dict[str, Tensor]:
        """Clean latents (1, C, h, w) of held-out frame `at`: of the teacher's many steps, and of the student's few, by their number."""
        if at == len(self._many):  # the teacher stays the same
            teacher = self.taught(torch.tensor([guidance], device=self.device), seen)
            steps = len(self.what.grid)
            self._many.append(self.what.sampled(teacher, steps, noise, rule="ddim", device=self.device))
        student = model(average, seen)
        few = {str(count): self.what.sampled(student, count, noise, device=self.device) for count in to}
        return {"teacher": self._many[at], **few}


def model(network: StructureGuided, seen: Seen, residuals: Residuals | None = None) -> Model:
    """`network` as a function of latents and timesteps; without `residuals` its ControlNet finds them."""

    def predict(sample: Tensor, now: np.ndarray) -> Tensor:
        timestep = torch.from_numpy(now).to(sample.device)
        given = network.residuals(sample, timestep, seen.hint, seen.tokens) if residuals is None else residuals
        return network.predict(sample, timestep, seen.tokens, given)

    return predict


def scales(guidance: float, spread: float, windows: int, frames: int, rng: np.random.Generator) -> Tensor:
    """(windows * frames,): guidance near `guidance`, one for a window; 1, for none, stays 1."""
    drawn = 1 + (guidance - 1) * rng.uniform(1 - spread, 1 + spread, windows)
    return torch.from_numpy(drawn.astype(np.float32).repeat(frames))
