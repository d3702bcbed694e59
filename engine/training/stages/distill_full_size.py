"""A full-size body learns to need few steps, its guidance baked in: twice twenty evaluations of the networks become a few.

Its teacher is an avatar's body as that avatar runs it: condition weight, guidance and normalisation over a window are the avatar's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from engine.networks.attention import Scope
from engine.networks.diffusion import StructureGuided, appearance_tokens
from engine.noise import Noise
from engine.training.base import FullSize
from engine.training.batches import CPU
from engine.training.consistency import Consistency, Distillation, pseudo_huber
from engine.training.frames import sheet, to_pixels
from engine.training.losses import psnr
from engine.training.stages.body import Draw, Drawer
from engine.training.stages.epsilon import EpsilonStage, View
from engine.training.stages.pupil import Pupil, Seen, scales
from engine.training.weights import Weights, warm_start


@dataclass(frozen=True)
class Lesson:
    """What one step is made of."""

    draw: Draw
    condition: Tensor  # (N, 3, s, s) in [0, 1]
    reference: Tensor  # (B, 3, s, s) in [0, 1], one for a window
    scale: Tensor  # (N,) guidance of the teacher, one for a window


class DistillFullSizeStage(EpsilonStage):
    """L = E d(f_theta(z_t, t), f_average(z_s, s)) on latents, d the pseudo-Huber distance, frames and windows.

    `before`: weights of stages in RUNS, which count where there are some. `nobody`: tokens (1, n, D) of the unconditional branch.
    """

    def __init__(
        self, networks: FullSize, train: View, held_out: View, before: Weights, distillation: Distillation,
        nobody: Tensor | None, scope: Scope, batch: int = 4, device: torch.device = CPU,
    ) -> None:  # fmt: skip
        super().__init__("distill", "body", networks, train, held_out, batch, device)
        self.distillation, self.average = distillation, self.modules  # until the loop lends its own
        warm_start(self.modules, before)
        self.modules.requires_grad_(False)
        what = Consistency(networks.schedule, "epsilon", distillation.stride)
        self.pupil = Pupil(networks.guided, what, nobody, scope, device)
        drawn = what.timesteps(distillation.to)
        self.draw = Drawer(train.frames, self.latents, batch, last=0.0, windows=0.25, timesteps=drawn)
        self.draw.schedule = networks.schedule

    def batch(self, rng: np.random.Generator, progress: float) -> Lesson:  # type: ignore[override]
        draw, d = self.draw(rng), self.distillation
        newest = draw.at[draw.frames - 1 :: draw.frames]
        reference = (self.train.pictures(self.train.frames.references(newest, rng)) + 1) / 2
        scale = scales(d.guidance, d.spread, len(newest), draw.frames, rng)
        return Lesson(draw, self.train.conditions(draw.at, rng), reference, scale)

    def loss(self, batch: Lesson) -> tuple[Tensor, dict[str, float]]:  # type: ignore[override]
        draw, average = batch.draw, self.average["body"]
        assert isinstance(average, StructureGuided)
        with torch.no_grad():
            tokens = appearance_tokens(self.encoder, batch.reference).repeat_interleave(draw.frames, dim=0)
        seen = Seen(batch.condition, tokens, draw.frames, draw.causal)
        clean, target = self.pupil.lesson(average, draw.noisy, draw.timestep, seen, batch.scale)
        return pseudo_huber(clean - target).mean(), {}

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        """Held-out frames, each alone, in each number of steps and in the teacher's many."""
        d, noise = self.distillation, Noise(tuple(self.latents.shape[1:]), 0)
        found: dict[str, list[float]] = {}
        rows = []
        for i in range(len(self.held_out.frames)):
            at, first = np.array([i]), self.train.frames.reference_of(self.held_out.frames.identity(i))
            tokens = appearance_tokens(self.encoder, (self.train.pictures(np.array([first])).to(self.device) + 1) / 2)
            condition, truth = self.held_out.conditions(at, np.random.default_rng(0)), self.held_out.pictures(at)
            seen = Seen(condition.to(self.device), tokens)
            row = [to_pixels(truth)[0]]
            for name, clean in self.pupil.ends(average["body"], noise, d.to, d.guidance, seen, i).items():  # type: ignore[arg-type]
                out = self.vae.decode(clean / self.vae.config.scaling_factor).sample.float().cpu()
                found.setdefault(f"psnr_{name}", []).append(psnr(out, truth))
                row.append(to_pixels(out)[0])
            rows.append(row)
        return {name: float(np.mean(values)) for name, values in found.items()}, sheet(rows[:4])
