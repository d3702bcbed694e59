"""The finetuned body of a tiny avatar learns to need few steps: consistency distillation of one person.

Batches are the body's: single frames and windows, whole and causal, from noise alone and from where few steps pass. The appearance
encoder and the decoder stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.appearance import UNCONDITIONAL
from engine.errors import InputError
from engine.networks.configs import AvatarConfig
from engine.noise import Noise
from engine.training.batches import CPU
from engine.training.consistency import Consistency, Distillation, pseudo_huber
from engine.training.frames import sheet, to_pixels
from engine.training.losses import Criterion, picture_loss, weighted
from engine.training.people import People
from engine.training.stages.autoencoder import Figures
from engine.training.stages.body import Batch, BodyStage, Drawer, reference_tokens
from engine.training.stages.pupil import Pupil, Seen, scales
from engine.training.weights import warm_start

TOLD = ("psnr_person", "ssim_person", "psnr_head", "psnr")


@dataclass(frozen=True)
class Lesson(Batch):
    """A batch with the guidance that the teacher shows it."""

    scale: Tensor  # (N,), one for a window


class DistillStage(BodyStage):
    """L = E w d(f_theta(z_t, t), f_average(z_s, s)) + pixels * L_pixels(D(f_theta(z_t, t), hints), x), d the pseudo-Huber distance.

    w is the body's. The second term, where `Distillation.pixels` is not 0, is the finetune's own loss on crops: it keeps the
    student with the pictures where the teacher's trajectory leaves them.
    """

    def __init__(
        self,
        config: AvatarConfig,
        train: People,
        held_out: People,
        before: dict[str, Any],
        distillation: Distillation,
        batch: int = 4,
        criterion: Criterion = picture_loss,
        device: torch.device = CPU,
    ) -> None:
        on_latents = 0.0 if distillation.pixels else 1.0
        super().__init__("distill", config, train, held_out, before, batch, criterion, on_latents, device=device)
        self.distillation = distillation
        warm_start(self.modules, before)
        self.modules.requires_grad_(False)
        what = Consistency(stride=distillation.stride)
        self.pupil = Pupil(self.body, what, nobody(distillation.guidance, before.get(UNCONDITIONAL)), device=device)
        self.average = self.modules  # until the loop lends its own
        drawn = what.timesteps(distillation.to)
        self.first = self.then = Drawer(train, self.then.latents, batch, last=0.0, windows=0.25, timesteps=drawn)

    def batch(self, rng: np.random.Generator, progress: float) -> Lesson:
        batch, d = super().batch(rng, progress), self.distillation
        frames = batch.draw.frames
        scale = scales(d.guidance, d.spread, len(batch.draw.at) // frames, frames, rng)
        return Lesson(**vars(batch), scale=scale)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(batch, Lesson)
        draw = batch.draw
        tokens, hint, skips = self.given(batch)
        seen = Seen(hint, tokens, draw.frames, draw.causal)
        clean, target = self.pupil.lesson(self.average["body"], draw.noisy, draw.timestep, seen, batch.scale)  # type: ignore[arg-type]
        loss = weighted(pseudo_huber(clean - target), batch.weight)
        figures = {"consistency": float(loss.detach())}
        if batch.cuts is not None:
            pixels = self.pixels(clean, skips, batch.cuts)
            loss, figures["pixels"] = loss + self.distillation.pixels * pixels, float(pixels.detach())
        return loss, figures

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        """Held-out frames in each number of steps and in the teacher's many, and how far their latents are from those."""
        frames, vae, d = self.held_out, self.vae.eval(), self.distillation
        noise = Noise(tuple(self.then.latents.shape[1:]), 0)  # the live engine's
        figures: dict[str, Figures] = {}
        apart: dict[str, list[float]] = {}
        rows = []
        for at in range(len(frames)):
            tokens = reference_tokens(average, self.train, self.train.reference_of(frames.identity(at)), self.device)
            image = frames.pictures([at])
            hint, *skips = self.body.hint(frames.conditions([at]).to(self.device))  # type: ignore[misc]
            ends = self.pupil.ends(average["body"], noise, d.to, d.guidance, Seen(hint, tokens), at)  # type: ignore[arg-type]
            row = [to_pixels(image)[0]]
            for name, clean in ends.items():
                out = vae.decode(clean, tuple(skips)).float().cpu()
                figures.setdefault(name, Figures()).add(out, image, frames.boxes([at])[0])
                apart.setdefault(name, []).append(float((clean - ends["teacher"]).abs().mean()))
                row.append(to_pixels(out)[0])
            rows.append(row)
        told = {f"{k}_{name}": v for name, of in figures.items() for k, v in of.mean().items() if k in TOLD}
        told |= {f"from_teacher_{name}": float(np.mean(gaps)) for name, gaps in apart.items() if name != "teacher"}
        return told, sheet(rows[:3])


def nobody(guidance: float, tokens: Tensor | None) -> Tensor | None:
    """The tokens of the unconditional branch where `guidance` needs one. InputError where there are none."""
    if guidance == 1.0:
        return None
    if tokens is None:
        raise InputError(
            "train distill", "--guidance", "1, or --from an avatar with appearance.unconditional", f"{guidance:g}"
        )
    return tokens
