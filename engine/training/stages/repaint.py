"""What the stages of face and hands share: parts of the picture painted again, by inpainting on crops of their own scale.

Their input is what the body model really makes of a training frame, cropped; their target the true crop. Mask 1 = keep, 0 =
redraw; channels noisy latents, mask, latents of what is kept, in that order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.crop import feather, warp
from engine.errors import InputError
from engine.networks.autoencoder import Autoencoder16, depth_to_space
from engine.networks.configs import AvatarConfig, DiffusionConfig
from engine.networks.diffusion import StructureGuided, build_image_encoder
from engine.noise import draw as draw_noise
from engine.repaint import LEAST
from engine.steps import Schedule
from engine.training.batches import CPU
from engine.training.dataset import Clip
from engine.training.frames import CELL, Frames, sheet, to_condition, to_picture, to_pixels
from engine.training.losses import Criterion, picture_loss, weighted
from engine.training.precision import mixed
from engine.training.stages.body import LAST, load, noised, one_step, reference_tokens

FROM_NOISE = 0.75  # of the draws start where an engine of one step does


@dataclass(frozen=True)
class Cut:
    """Where one crop lies in a frame."""

    frame: int  # position among the frames
    transform: np.ndarray  # (2, 3) float32, picture to crop
    mask: np.ndarray  # (s, s) uint8, above 127 where it is redrawn


@dataclass(frozen=True)
class Crops:
    """Crops of frames: truth, what the body model painted, the mesh, and what is redrawn. uint8."""

    truth: np.ndarray  # (N, s, s, 3)
    painted: np.ndarray  # (N, s, s, 3)
    condition: np.ndarray  # (N, s, s, 3)
    mask: np.ndarray  # (N, s, s)


@dataclass(frozen=True)
class Batch:
    """What one step is made of."""

    sample: Tensor  # (B, 2C + 1, h, w): noisy latents, mask, latents of what is kept
    timestep: Tensor  # (B,)
    condition: Tensor  # (B, 3, s, s) in [0, 1]
    clean: Tensor  # (B, C, h, w)
    truth: Tensor  # (B, 3, s, s) in [-1, 1]
    weight: Tensor  # (B, 1, s, s)


class RepaintStage(ABC):
    """A part's diffusion and decoder, on pixels and latents of its crops."""

    name: str
    part: str  # modules are called `part` and `part`_decoder
    shown = 4  # rows of the sheet
    usual_batch = 8

    def __init__(
        self,
        config: AvatarConfig,
        train: Frames,
        held_out: Frames,
        before: dict[str, Any],
        batch: int | None = None,
        criterion: Criterion = picture_loss,
        device: torch.device = CPU,
    ) -> None:
        assert config.vae is not None
        guided, decoder_sizes = self.networks(config)
        self.criterion, self.count, self.schedule, self.device = (
            criterion,
            batch or self.usual_batch,
            Schedule(),
            device,
        )
        self.size = guided.latent_size * CELL
        self.alpha = feather(self.size)
        self.vae, body_vae = Autoencoder16(**config.vae), Autoencoder16(**config.vae)
        load(self.vae, before, "vae")
        load(body_vae, before, "vae")
        load(body_vae.decoder, before, "decoder")
        body, encoder = StructureGuided.build(config.body), build_image_encoder(config.image_encoder)
        load(body, before, "body")
        load(encoder, before, "image_encoder")
        for network in (self.vae, body_vae, body, encoder):
            network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        with torch.no_grad(), mixed("auto", device):
            tokens = reference_tokens({"image_encoder": encoder}, train, device=device).float()  # type: ignore[arg-type]
        self.crops, self.held_out = (
            crops_of(body, body_vae, tokens, frames, self.seen(frames), self.size) for frames in (train, held_out)
        )

        again = StructureGuided.build(guided)
        decoder = Autoencoder16(**{**config.vae, **decoder_sizes}).decoder
        decoder.load_state_dict(_shared(body_vae.decoder, decoder), strict=False)
        assert again.hint is not None and body.hint is not None
        again.hint.load_state_dict(_shared(body.hint, again.hint), strict=False)
        self.modules = nn.ModuleDict({self.part: again, f"{self.part}_decoder": decoder})

        with torch.no_grad(), mixed("auto", device):
            self.tokens = self.appearance(encoder, tokens)
        self.latents = self.encode([to_picture(part) for part in _parts(self.crops.truth)])
        self.kept, self.mask = self.encode_masked(self.crops)

    @abstractmethod
    def networks(self, config: AvatarConfig) -> tuple[DiffusionConfig, dict[str, Any]]:
        """The part's diffusion model, and what of its decoder's sizes is not the autoencoder's."""

    @abstractmethod
    def cuts(self, clip: Clip, index: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The crops of a frame: transforms (2, 3) and masks (s, s) uint8."""

    @abstractmethod
    def weights(self, mask: Tensor) -> Tensor:
        """How pixels count, (B, 1, s, s), for masks (B, 1, s, s) in [0, 1]."""

    @abstractmethod
    def blended(self, mask: np.ndarray) -> np.ndarray:
        """The alpha (s, s) by which the engine blends a crop with this mask (s, s) uint8."""

    def appearance(self, encoder: nn.Module, tokens: Tensor) -> Tensor:
        """Tokens (1, n, D) of the part's reference; `tokens`: those of the whole picture's."""
        return tokens

    def seen(self, frames: Frames) -> list[Cut]:
        """The crops of all `frames` in which the mesh shows the part. InputError where there is none."""
        found = [
            Cut(at, transform, mask)
            for at, (clip, index) in enumerate(frames.index)
            for transform, mask in self.cuts(frames.clips[clip], index)
            if (mask > 127).mean() >= LEAST
        ]
        if not found:
            raise InputError(str(frames.clips[0].folder), self.name, "frames in which the mesh shows it", "none")
        return found

    @torch.no_grad()
    def encode(self, pictures: list[Tensor]) -> Tensor:
        """Latents (N, C, h, w) of pictures (n, 3, s, s), on the CPU."""
        with mixed("auto", self.device):
            return torch.cat([self.vae.encode(part.to(self.device)).float().cpu() for part in pictures])

    def encode_masked(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """The two inpainting inputs of every crop: masked latents (N, C, h, w) and masks (N, 1, h, w)."""
        parts = zip(_parts(crops.painted), _parts(crops.mask), strict=True)
        pictures, kept = zip(*(masked(painted, mask) for painted, mask in parts), strict=True)
        return self.encode(list(pictures)), torch.cat(kept)

    def batch(self, rng: np.random.Generator, progress: float) -> Batch:
        at = rng.integers(len(self.latents), size=self.count)
        timestep = np.where(rng.random(self.count) < FROM_NOISE, LAST, rng.integers(0, LAST, size=self.count))
        clean = self.latents[at]
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        sample = torch.cat([noised(clean, timestep, noise, self.schedule), self.mask[at], self.kept[at]], dim=1)
        mask = torch.from_numpy(self.crops.mask[at][:, None]).float() / 255
        condition, truth = to_condition(self.crops.condition[at]), to_picture(self.crops.truth[at])
        return Batch(sample, torch.from_numpy(timestep), condition, clean, truth, self.weights(mask))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        prediction, out = self.paint(self.modules, batch.sample, batch.timestep, batch.condition)
        pixels = self.criterion(out, batch.truth, batch.weight)
        in_latents = weighted((prediction - batch.clean) ** 2, F.avg_pool2d(batch.weight, CELL))
        return pixels + 0.02 * in_latents, {"pixels": float(pixels.detach()), "latents": float(in_latents.detach())}

    def paint(
        self, modules: nn.ModuleDict, sample: Tensor, timestep: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Clean latents (B, C, h, w) and pictures (B, 3, s, s)."""
        again: StructureGuided = modules[self.part]  # type: ignore[assignment]
        assert again.hint is not None
        hint, hint8, hint4 = again.hint(condition)
        prediction = again(sample, timestep, hint, self.tokens).float()
        return prediction, depth_to_space(modules[f"{self.part}_decoder"](prediction, (hint8, hint4))).float()

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        """Crops of held-out frames before and after, blended as the engine does, where that changes them."""
        crops, rows = self.held_out, []
        kept, mask = self.encode_masked(crops)
        figures: dict[str, list[float]] = {"psnr_before": [], "psnr_after": []}
        noise = torch.from_numpy(draw_noise(tuple(self.latents.shape[1:]), 0, 0).copy())[None]
        for i in range(len(crops.truth)):
            sample = torch.cat([noise, mask[i : i + 1], kept[i : i + 1]], dim=1)
            last, condition = torch.tensor([LAST]), to_condition(crops.condition[i : i + 1])
            _, out = self.paint(average, *(x.to(self.device) for x in (sample, last, condition)))
            alpha = self.blended(crops.mask[i])[..., None]
            new = np.round(crops.painted[i] + alpha * (to_pixels(out.cpu())[0].astype(np.float32) - crops.painted[i]))
            changed = alpha[..., 0] > 0.5
            for name, picture in (("psnr_before", crops.painted[i]), ("psnr_after", new)):
                figures[name].append(_psnr(picture[changed], crops.truth[i][changed]))
            rows.append([crops.condition[i], crops.truth[i], crops.painted[i], new.astype(np.uint8)])
        spread = np.linspace(0, len(rows) - 1, min(self.shown, len(rows))).round().astype(int)
        return {name: float(np.mean(values)) for name, values in figures.items()}, sheet([rows[i] for i in spread])


def masked(painted: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, s, s), grey where they are redrawn, and (B, 1, s/16, s/16): the part of each cell that is kept."""
    keep = 1 - (torch.from_numpy(mask)[:, None] > 127).float()
    return to_picture(painted) * keep, F.avg_pool2d(keep, CELL)


@torch.no_grad()
def crops_of(
    body: StructureGuided, vae: Autoencoder16, tokens: Tensor, frames: Frames, cuts: list[Cut], size: int
) -> Crops:
    """The crops `cuts` of `frames`, with what the body model paints at its one step."""
    n = len(cuts)
    truth, painted, conditions = (np.empty((n, size, size, 3), np.uint8) for _ in range(3))
    by_frame: dict[int, list[int]] = {}
    for i, cut in enumerate(cuts):
        by_frame.setdefault(cut.frame, []).append(i)
    for at in _parts(np.array(list(by_frame), np.int64), 4):
        with mixed("auto", tokens.device):
            pictures = to_pixels(one_step(body, vae, frames.conditions(at).to(tokens.device), tokens).cpu())
        for picture, frame in zip(pictures, at, strict=True):
            clip, index = frames.clips[frames.index[frame, 0]], frames.index[frame, 1]
            sources = np.ascontiguousarray(picture), np.asarray(clip.frames[index]), np.asarray(clip.condition[index])
            for i in by_frame[int(frame)]:
                for source, crops in zip(sources, (painted, truth, conditions), strict=True):
                    warp(source, cuts[i].transform, size, crops[i])
    return Crops(truth, painted, conditions, np.stack([cut.mask for cut in cuts]))


def scaled(transform: np.ndarray, factor: float) -> np.ndarray:
    """A transform (2, 3) to crops `factor` times as large as those that it was made for."""
    return np.asarray(transform * factor, np.float32)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of two arrays of uint8 values, in dB."""
    error = ((a.astype(np.float64) - b) ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def _shared(source: nn.Module, target: nn.Module) -> dict[str, Tensor]:
    """Weights of `source` that have a place of the same shape in `target`."""
    wanted = target.state_dict()
    return {k: v for k, v in source.state_dict().items() if k in wanted and wanted[k].shape == v.shape}


def _parts(array: np.ndarray, size: int = 16) -> list[np.ndarray]:
    return [array[i : i + size] for i in range(0, len(array), size)]
