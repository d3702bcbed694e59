"""Stages 2 and 3: the body's structure-guided diffusion, first on latents, then through the decoder on pixels.

Prediction is of the clean latents ("sample"). Half of the draws or more start from pure noise at the last timestep, which is
where a live engine of one step is; the others are spread over the schedule, so that more steps stay valid. Some batches are
windows of two frames: the frame before, finished or at the same noise, and the new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.networks.autoencoder import Autoencoder16, depth_to_space
from engine.networks.configs import AvatarConfig
from engine.networks.diffusion import StructureGuided, appearance_tokens, build_image_encoder
from engine.steps import Schedule
from engine.training.dataset import HEAD, LEFT_HAND, RIGHT_HAND
from engine.training.frames import CELL, Frames, crop_corner, cut_weight, region_weights, sheet, to_pixels
from engine.training.losses import Criterion, picture_loss, weighted
from engine.training.stages.autoencoder import Figures

LAST = Schedule().train_steps - 1


def noised(clean: Tensor, timestep: np.ndarray, noise: Tensor, schedule: Schedule) -> Tensor:
    """z_t = sqrt(alpha_t) z_0 + sqrt(1 - alpha_t) noise; at the last timestep noise alone, as a live engine starts."""
    alpha = np.where(timestep == LAST, 0.0, schedule.alpha(timestep))
    a = torch.from_numpy(alpha.astype(np.float32))[:, None, None, None]
    return a.sqrt() * clean + (1 - a).sqrt() * noise


@dataclass
class Draw:
    """One batch of windows: frames in their order, with what the network sees."""

    at: np.ndarray  # (N,) positions, N = B * frames
    frames: int
    timestep: np.ndarray  # (N,)
    noisy: Tensor  # (N, C, h, w)
    judged: Tensor  # (N,) 1 where the prediction counts: finished context frames do not


class Drawer:
    """Draws batches from frames whose clean latents are known."""

    def __init__(self, frames: Frames, latents: Tensor, batch: int, last: float, windows: float) -> None:
        self.frames, self.latents, self.batch = frames, latents, batch
        self.last, self.windows = last, windows
        self.schedule = Schedule()

    def __call__(self, rng: np.random.Generator) -> Draw:
        count = 2 if rng.random() < self.windows else 1
        n = max(1, self.batch // count)
        at = self.frames.draw(rng, n)
        timestep = np.where(rng.random(n) < self.last, LAST, rng.integers(0, LAST, size=n))
        noise = torch.randn(n, *self.latents.shape[1:])
        if count == 1:
            return Draw(at, 1, timestep, noised(self.latents[at], timestep, noise, self.schedule), torch.ones(n))
        finished = rng.random(n) < 0.4  # the context frame as it left the engine, or on its way beside the new one
        at = np.stack([self.frames.before(at, rng), at], axis=1).reshape(-1)
        timestep = np.stack([np.where(finished, 0, timestep), timestep], axis=1).reshape(-1)
        noise = noise.repeat_interleave(2, dim=0)  # one noise for all frames of a window, as live
        clean = self.latents[at]
        clean[0::2] += (
            0.1 * torch.randn_like(clean[0::2]) * torch.from_numpy(finished.astype(np.float32))[:, None, None, None]
        )
        judged = torch.from_numpy(np.stack([~finished, np.ones(n, bool)], axis=1).reshape(-1).astype(np.float32))
        return Draw(at, 2, timestep, noised(clean, timestep, noise, self.schedule), judged)


@torch.no_grad()
def encode_all(vae: Autoencoder16, frames: Frames) -> Tensor:
    """Clean latents of every frame: (N, C, h, w) float32."""
    vae.eval()
    parts = []
    with torch.autocast("cpu", torch.bfloat16):
        for at in np.array_split(np.arange(len(frames)), max(1, len(frames) // 8)):
            parts.append(vae.encode(frames.pictures(at)).float())
    return torch.cat(parts)


class BodyStage:
    """Stage 2: E |w (f_theta(z_t, t, c_appearance, c_pose) - z_0)|^2, w heavier on the person, the head and the hands.

    The reference frame of the appearance is drawn at random from the same clip (section 3.4 of the paper).
    """

    name = "body"

    def __init__(
        self,
        config: AvatarConfig,
        train: Frames,
        held_out: Frames,
        before: dict[str, Any],
        batch: int = 8,
        criterion: Criterion = picture_loss,
    ) -> None:
        assert config.vae is not None
        self.criterion = criterion
        self.train, self.held_out = train, held_out
        self.vae = Autoencoder16(**config.vae)
        load(self.vae, before, "vae")
        self.vae.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
        self.modules = nn.ModuleDict(
            {"body": StructureGuided.build(config.body), "image_encoder": build_image_encoder(config.image_encoder)}
        )
        self.latents = encode_all(self.vae, train)
        self.draw = Drawer(train, self.latents, batch, last=0.5, windows=0.25)

    def predict(self, draw: Draw, rng: np.random.Generator) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The clean latents as the networks see them, and the hints for the decoder."""
        body: StructureGuided = self.modules["body"]  # type: ignore[assignment]
        body.set_window(draw.frames)
        reference = self.train.draw(rng, 1)
        tokens = appearance_tokens(self.modules["image_encoder"], (self.train.pictures(reference) + 1) / 2)  # type: ignore[arg-type]
        assert body.hint is not None
        hint, *skips = body.hint(self.train.conditions(draw.at))
        prediction = body(draw.noisy, torch.from_numpy(draw.timestep), hint, tokens)
        body.set_window(1)
        return prediction.float(), (skips[0], skips[1])

    def latent_loss(self, prediction: Tensor, draw: Draw) -> Tensor:
        size = self.latents.shape[-1]
        weight = region_weights(self.train.boxes(draw.at) / CELL, size, head=5, hand=5, person=1.5, rest=0.4)
        weight = weight * draw.judged[:, None, None, None]
        return weighted((prediction - self.latents[draw.at]) ** 2, weight)

    def loss(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        draw = self.draw(rng)
        prediction, _ = self.predict(draw, rng)
        return self.latent_loss(prediction, draw), {}

    def decoder(self, average: nn.ModuleDict) -> Autoencoder16:
        return self.vae

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        """One step from pure noise on held-out frames, through the decoder."""
        frames = self.held_out
        figures, rows = Figures(), []
        tokens = reference_tokens(average, self.train)
        for at in range(len(frames)):
            image = frames.pictures([at])
            out = one_step(average["body"], self.decoder(average), frames.conditions([at]), tokens)  # type: ignore[arg-type]
            figures.add(out, image, frames.boxes([at])[0])
            condition = (frames.conditions([at]) * 2 - 1).contiguous()
            rows.append([to_pixels(condition)[0], to_pixels(image)[0], to_pixels(out)[0]])
        return figures.mean(), sheet(rows[:3])


def reference_tokens(average: nn.ModuleDict, frames: Frames) -> Tensor:
    """The appearance that an avatar ships with: that of its first training frame."""
    return appearance_tokens(average["image_encoder"], (frames.pictures([0]) + 1) / 2)  # type: ignore[arg-type]


def one_step(body: StructureGuided, vae: Autoencoder16, condition: Tensor, tokens: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) of conditions (B, 3, S, S): one step from the shared noise of seed 0."""
    from engine.noise import draw

    assert body.hint is not None
    hint, hint8, hint4 = body.hint(condition)
    shape = (vae.config.latent_channels, hint.shape[-2], hint.shape[-1])
    noise = torch.from_numpy(draw(shape, 0, 0).copy())[None].expand(len(condition), -1, -1, -1)
    latents = body(noise, torch.full((len(condition),), LAST), hint, tokens)
    return vae.decode(latents.float(), (hint8, hint4)).float()


class PixelStage(BodyStage):
    """Stage 3: the body and the decoder, now with skips from the hints, on the pixels of crops.

    The diffusion runs on the whole picture, the decoder on two crops of each: one about the head, one about a hand or anywhere.
    """

    name = "pixels"

    def __init__(
        self,
        config: AvatarConfig,
        train: Frames,
        held_out: Frames,
        before: dict[str, Any],
        batch: int = 4,
        criterion: Criterion = picture_loss,
    ) -> None:
        super().__init__(config, train, held_out, before, batch, criterion)
        load(self.modules["body"], before, "body")
        load(self.modules["image_encoder"], before, "image_encoder")
        self.modules["decoder"] = self.vae.decoder.requires_grad_(True)
        self.draw = Drawer(train, self.latents, batch, last=0.75, windows=0.25)
        self.crop = min(256, train.size)

    def loss(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        draw = self.draw(rng)
        prediction, (hint8, hint4) = self.predict(draw, rng)
        size, crop = self.train.size, self.crop
        boxes = self.train.boxes(draw.at)
        regions = region_weights(boxes, size, head=3, hand=3, person=1.5, rest=0.7)
        kept = [i for i in range(len(draw.at)) if draw.judged[i] > 0]
        latents, skips8, skips4, target, weight = [], [], [], [], []
        pictures = self.train.pictures(draw.at)
        for i in kept:
            hand = boxes[i, (LEFT_HAND, RIGHT_HAND)[int(rng.integers(2))]]
            for box in (boxes[i, HEAD] if rng.random() < 0.8 else None, hand if rng.random() < 0.65 else None):
                x, y = crop_corner(rng, box, crop, size)
                cells, c = np.s_[i, :, y // 16 : (y + crop) // 16, x // 16 : (x + crop) // 16], crop
                latents.append(prediction[cells])
                skips8.append(hint8[i, :, y // 8 : (y + c) // 8, x // 8 : (x + c) // 8])
                skips4.append(hint4[i, :, y // 4 : (y + c) // 4, x // 4 : (x + c) // 4])
                target.append(pictures[i, :, y : y + c, x : x + c])
                cut = torch.from_numpy(cut_weight(x, y, crop, size, 32))
                weight.append(cut * regions[i, :, y : y + c, x : x + c])
        nhwc = torch.channels_last
        skips = (torch.stack(skips8).contiguous(memory_format=nhwc), torch.stack(skips4).contiguous(memory_format=nhwc))
        out = depth_to_space(self.modules["decoder"](torch.stack(latents).contiguous(memory_format=nhwc), skips))
        pixels = self.criterion(out, torch.stack(target), torch.stack(weight))
        in_latents = self.latent_loss(prediction, draw)
        return pixels + 0.02 * in_latents, {"pixels": float(pixels.detach()), "latents": float(in_latents.detach())}

    def decoder(self, average: nn.ModuleDict) -> Autoencoder16:
        self.average_vae = getattr(self, "average_vae", None) or Autoencoder16.from_config(self.vae.config)
        self.average_vae.load_state_dict(self.vae.state_dict())
        self.average_vae.decoder.load_state_dict(average["decoder"].state_dict())
        return self.average_vae.eval()


def load(network: nn.Module, weights: dict[str, Any], prefix: str) -> None:
    """Load what lies under `prefix.` in the weights of a stage before."""
    part = {key[len(prefix) + 1 :]: value for key, value in weights.items() if key.startswith(prefix + ".")}
    network.load_state_dict(part)
