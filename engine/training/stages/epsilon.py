"""Make-Your-Anchor's own training, for full-size networks: the noise is predicted, on latents of the base model's autoencoder.

    L = E |eps - eps_theta(z_t, t, c_appearance, c_pose)|^2,  z_t = sqrt(alpha_t) z_0 + sqrt(1 - alpha_t) eps

Per frame, t uniform over the schedule; UNet and ControlNet learn, autoencoder and appearance encoder do not; the appearance's
reference is a random frame of the same person (arXiv 2403.16510, section 3.4). The face's network sees, beside z_t, the mask and
the latents of what the mask keeps: inpainting on the aligned crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine import face, steps
from engine.crop import warp, warp_mask
from engine.networks.diffusion import StructureGuided, appearance_tokens
from engine.noise import draw as draw_noise
from engine.training.base import FullSize
from engine.training.batches import CPU
from engine.training.frames import sheet, to_condition, to_picture, to_pixels
from engine.training.losses import psnr
from engine.training.people import People
from engine.training.perturb import Perturbed

VALIDATION_STEPS = 20  # the paper's, without guidance


class View(Protocol):
    """What the network sees of frames, by their positions (B,)."""

    frames: People

    def pictures(self, at: np.ndarray) -> Tensor:
        """(B, 3, s, s) in [-1, 1]."""
        ...

    def conditions(self, at: np.ndarray, rng: np.random.Generator) -> Tensor:
        """(B, 3, s, s) in [0, 1]."""
        ...

    def keep(self, at: np.ndarray) -> Tensor | None:
        """(B, 1, s, s): 1 where the picture is kept, 0 where it is redrawn; None where all of it is drawn."""
        ...


class Whole:
    """The whole picture."""

    def __init__(self, frames: People, conditions: Perturbed) -> None:
        self.frames, self._rendered = frames, conditions

    def conditions(self, at: np.ndarray, rng: np.random.Generator) -> Tensor:
        return self._rendered(at, rng)

    def pictures(self, at: np.ndarray) -> Tensor:
        return self.frames.pictures(at)

    def keep(self, at: np.ndarray) -> Tensor | None:
        return None


class Face:
    """The aligned crop of the face, `size` pixels across."""

    def __init__(self, frames: People, conditions: Perturbed, size: int) -> None:
        self.frames, self.size, self._rendered = frames, size, conditions

    def pictures(self, at: np.ndarray) -> Tensor:
        return to_picture(self._cut(at, to_pixels(self.frames.pictures(at))))

    def conditions(self, at: np.ndarray, rng: np.random.Generator) -> Tensor:
        pixels = (self._rendered(at, rng) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return to_condition(self._cut(at, pixels))

    def keep(self, at: np.ndarray) -> Tensor | None:
        masks = [
            warp_mask(clip.face_mask[i], 255, self._transform(clip.faces[i]), self.size) for clip, i in self._of(at)
        ]
        return (torch.from_numpy(np.stack(masks))[:, None] <= 127).float()

    def _cut(self, at: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        cut = [
            warp(np.ascontiguousarray(picture), self._transform(clip.faces[i]), self.size)
            for picture, (clip, i) in zip(pixels, self._of(at), strict=True)
        ]
        return np.stack(cut)

    def _of(self, at: np.ndarray) -> list[tuple[Any, int]]:
        return [(self.frames.clips[c], i) for c, i in self.frames.index[at]]

    def _transform(self, stored: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(stored * (self.size / face.CROP), np.float32)


@dataclass(frozen=True)
class Batch:
    """What one step is made of."""

    timestep: Tensor  # (B,)
    noise: Tensor  # (B, C, h, w)
    noisy: Tensor  # (B, C, h, w)
    beside: Tensor | None  # (B, 1 + C, h, w): mask and latents of what is kept
    condition: Tensor  # (B, 3, s, s) in [0, 1]
    reference: Tensor  # (B, 3, s, s) in [0, 1]


class EpsilonStage:
    """The paper's training of one part, "body" or "head"."""

    def __init__(
        self, name: str, part: str, networks: FullSize, train: View, held_out: View, batch: int = 4,
        device: torch.device = CPU,
    ) -> None:  # fmt: skip
        self.name, self.part, self.size, self.device = name, part, batch, device
        self.train, self.held_out, self.schedule = train, held_out, networks.schedule
        self.modules = nn.ModuleDict({part: networks.guided})
        self.vae, self.encoder = networks.vae, networks.image_encoder
        for frozen in (self.vae, self.encoder):
            frozen.to(device).eval().requires_grad_(False)
        everything = np.arange(len(train.frames))
        self.latents = self.encode(train, everything)
        self.beside = self.inpainted(train, everything)

    def batch(self, rng: np.random.Generator, progress: float) -> Batch:
        frames = self.train.frames
        at = frames.draw(rng, self.size)
        timestep = rng.integers(0, self.schedule.train_steps, size=self.size)
        clean = self.latents[at]
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        alpha = torch.from_numpy(self.schedule.alpha(timestep).astype(np.float32))[:, None, None, None]
        reference = (self.train.pictures(frames.references(at, rng)) + 1) / 2
        return Batch(
            torch.from_numpy(timestep), noise, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise,
            None if self.beside is None else self.beside[at], self.train.conditions(at, rng), reference,
        )  # fmt: skip

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            tokens = appearance_tokens(self.encoder, batch.reference)
        guided: StructureGuided = self.modules[self.part]  # type: ignore[assignment]
        sample = batch.noisy if batch.beside is None else torch.cat([batch.noisy, batch.beside], dim=1)
        prediction = guided(sample, batch.timestep, batch.condition, tokens)
        return F.mse_loss(prediction.float(), batch.noise), {}

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        """Held-out frames by DDIM from the shared noise of seed 0, without guidance."""
        guided: StructureGuided = average[self.part]  # type: ignore[assignment]
        found, rows = [], []
        for i in range(len(self.held_out.frames)):
            at, first = np.array([i]), self.train.frames.reference_of(self.held_out.frames.identity(i))
            tokens = appearance_tokens(self.encoder, (self.train.pictures(np.array([first])).to(self.device) + 1) / 2)
            condition, truth = self.held_out.conditions(at, np.random.default_rng(0)), self.held_out.pictures(at)
            beside = self.inpainted(self.held_out, at)
            z = torch.from_numpy(draw_noise(tuple(self.latents.shape[1:]), 0, 0).copy())[None].to(self.device)
            for now, after in steps.spaced(self.schedule, VALIDATION_STEPS).pairs():
                sample = z if beside is None else torch.cat([z, beside.to(self.device)], dim=1)
                timestep = torch.tensor([now], device=self.device)
                predicted = guided(sample, timestep, condition.to(self.device), tokens).float()
                z = steps.ddim(self.schedule, z, predicted, now, after, "epsilon")
            out = self.vae.decode(z / self.vae.config.scaling_factor).sample.float().cpu()
            found.append(psnr(out, truth))
            rows.append([to_pixels(picture)[0] for picture in (condition * 2 - 1, truth, out)])
        return {"psnr": float(np.mean(found))}, sheet(rows[:4])

    @torch.no_grad()
    def encode(self, view: View, at: np.ndarray, keep: bool = False) -> Tensor:
        """Scaled latents (N, C, h, w), on the CPU, of pictures, or with `keep` of what is kept of them."""
        parts = []
        for some in _parts(at):
            pictures, kept = view.pictures(some), view.keep(some) if keep else None
            if kept is not None:
                pictures = pictures * kept
            latents = self.vae.encode(pictures.to(self.device)).latent_dist.mode()
            parts.append((latents * self.vae.config.scaling_factor).float().cpu())
        return torch.cat(parts)

    def inpainted(self, view: View, at: np.ndarray) -> Tensor | None:
        """Mask and latents of what is kept (N, 1 + C, h, w), where the view redraws a part only."""
        if view.keep(at[:1]) is None:
            return None
        latents = self.encode(view, at, keep=True)
        masks = [F.interpolate(view.keep(some), latents.shape[-2:], mode="nearest") for some in _parts(at)]  # type: ignore[arg-type]
        return torch.cat([torch.cat(masks), latents], dim=1)


def _parts(at: np.ndarray, size: int = 8) -> Sequence[np.ndarray]:
    return [at[i : i + size] for i in range(0, len(at), size)]
