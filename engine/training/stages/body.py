"""The body's structure-guided diffusion, first on latents, then through the decoder on pixels: the paper's two stages for
networks with an autoencoder of their own.

Prediction is of the clean latents ("sample"). Most draws start from pure noise at the last timestep, which is where a live engine
of one step is; the others are spread over the schedule, so that more steps stay valid. Some batches are windows: frames near each
other under one noise, which attend to all of the window (as Algorithm 1) or to the past (as live).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.networks.autoencoder import Autoencoder16, depth_to_space
from engine.networks.configs import AvatarConfig
from engine.networks.diffusion import StructureGuided, appearance_tokens, build_image_encoder
from engine.steps import Schedule
from engine.training.batches import CPU
from engine.training.dataset import HEAD, LEFT_HAND, RIGHT_HAND
from engine.training.frames import CELL, Frames, crop_corner, cut_weight, region_weights, sheet, to_pixels
from engine.training.losses import Criterion, change_loss, picture_loss, weighted
from engine.training.people import People
from engine.training.perturb import Perturbed
from engine.training.precision import mixed
from engine.training.stages.autoencoder import Figures

LAST = Schedule().train_steps - 1


def noised(clean: Tensor, timestep: np.ndarray, noise: Tensor, schedule: Schedule) -> Tensor:
    """z_t = sqrt(alpha_t) z_0 + sqrt(1 - alpha_t) noise; at the last timestep noise alone, as a live engine starts."""
    alpha = np.where(timestep == LAST, 0.0, schedule.alpha(timestep))
    a = torch.from_numpy(alpha.astype(np.float32))[:, None, None, None]
    return a.sqrt() * clean + (1 - a).sqrt() * noise


@dataclass(frozen=True)
class Draw:
    """Windows of frames in their order, with what the network sees of them."""

    at: np.ndarray  # (N,) positions, N = B * frames
    frames: int
    causal: bool  # they attend to the past only
    timestep: Tensor  # (N,)
    clean: Tensor  # (N, C, h, w)
    noisy: Tensor  # (N, C, h, w)


class Drawer:
    """Draws batches from frames whose clean latents are known.

    `last`: the share that starts from pure noise, where others start at one of `timesteps` (None: at any); `windows`: the
    share of batches that are windows, of 2 or of 4 frames as far as they fit.
    """

    def __init__(
        self,
        frames: Frames,
        latents: Tensor,
        batch: int,
        last: float,
        windows: float,
        timesteps: np.ndarray | None = None,
    ) -> None:
        self.frames, self.latents, self.batch = frames, latents, batch
        self.last, self.windows = last, windows
        self.timesteps = np.arange(LAST) if timesteps is None else timesteps
        self.schedule = Schedule()

    def __call__(self, rng: np.random.Generator) -> Draw:
        counts = [count for count in (2, 4) if count <= self.batch]
        count = int(rng.choice(counts)) if counts and rng.random() < self.windows else 1
        n = max(1, self.batch // count)
        newest = self.frames.draw(rng, n)
        at = np.concatenate([self.frames.window(newest[i], count, rng) for i in range(n)])
        last, other = rng.random(n) < self.last, self.timesteps[rng.integers(len(self.timesteps), size=n)]
        timestep = np.where(last, LAST, other).repeat(count)
        noise = torch.from_numpy(rng.standard_normal((n, *self.latents.shape[1:]), np.float32))
        noise = noise.repeat_interleave(count, dim=0)  # one for a window, as live
        clean = self.latents[at]
        noisy = noised(clean, timestep, noise, self.schedule)
        return Draw(at, count, bool(rng.random() < 0.5), torch.from_numpy(timestep), clean, noisy)


@dataclass(frozen=True)
class Cuts:
    """Crops of a batch's frames, on which the decoder is judged: each in all frames of a window, one after the other."""

    corners: tuple[tuple[int, int, int], ...]  # (frame of the batch, x, y) of each
    frames: int  # of a window
    size: int
    target: Tensor  # (K, 3, size, size) in [-1, 1]
    weight: Tensor  # (K, 1, size, size)

    def of(self, maps: Tensor, cell: int) -> Tensor:
        """The crops of maps (N, C, S/cell, S/cell): (K, C, size/cell, size/cell)."""
        c = self.size // cell
        cut = [maps[i, :, y // cell : y // cell + c, x // cell : x // cell + c] for i, x, y in self.corners]
        return torch.stack(cut).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Batch:
    """What one step of the body's training is made of."""

    draw: Draw
    reference: Tensor  # (B, 3, S, S) in [0, 1]: another frame of the same person, one for a window
    condition: Tensor  # (N, 3, S, S) in [0, 1]
    weight: Tensor  # (N, 1, h, w) of the latents
    cuts: Cuts | None  # None: the loss is on latents alone


class BodyStage:
    """The denoising loss of the paper, written for a prediction of z_0, and then the loss on what the decoder makes of it:

        L_latents = E |w (f_theta(z_t, t, c_appearance, c_pose) - z_0)|^2
        L = L_pixels(D(f_theta(...), hints), x) + 0.02 L_latents

    w is heavier on the person, the head and the hands. The appearance's reference is a random frame of the same person (section
    3.4). A run begins with the latents' loss, which is cheap and finds the pose, for the part `on_latents` of it, on twice the
    batch; weights that already know a person need none of it. On pixels the diffusion runs on the whole picture, the decoder on
    two crops of each: one about the head, one about a hand or anywhere. In windows the crops stand still, and the error's
    change from frame to frame counts too.
    """

    def __init__(
        self,
        name: str,
        config: AvatarConfig,
        train: People,
        held_out: People,
        before: dict[str, Any],
        batch: int = 4,
        criterion: Criterion = picture_loss,
        on_latents: float = 1 / 3,
        perturbed: Perturbed | None = None,
        device: torch.device = CPU,
    ) -> None:
        assert config.vae is not None
        self.name, self.criterion, self.device = name, criterion, device
        self.train, self.held_out, self.perturbed = train, held_out, perturbed
        self.on_latents, self.crop = on_latents, min(256, train.size)
        self.vae = Autoencoder16(**config.vae)
        load(self.vae, before, "vae")
        self.vae.to(device, memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
        latents = encode_all(self.vae, train, device)
        self.modules = nn.ModuleDict({
            "body": StructureGuided.build(config.body),
            "image_encoder": build_image_encoder(config.image_encoder),
            "decoder": self.vae.decoder.requires_grad_(True),
        })  # fmt: skip
        self.first = Drawer(train, latents, 2 * batch, last=0.5, windows=0.25)
        self.then = Drawer(train, latents, batch, last=0.85, windows=0.5)

    def batch(self, rng: np.random.Generator, progress: float) -> Batch:
        on_latents = progress < self.on_latents
        draw = (self.first if on_latents else self.then)(rng)
        reference = self.train.references(draw.at[draw.frames - 1 :: draw.frames], rng)
        boxes = self.train.boxes(draw.at)
        return Batch(
            draw,
            (self.train.pictures(reference) + 1) / 2,
            self.train.conditions(draw.at) if self.perturbed is None else self.perturbed(draw.at, rng),
            region_weights(boxes / CELL, draw.clean.shape[-1], head=5, hand=5, person=1.5, rest=0.4),
            None if on_latents else self.cut(draw, boxes, rng),
        )

    def cut(self, draw: Draw, boxes: np.ndarray, rng: np.random.Generator) -> Cuts:
        """Two crops of each window, with what counts in them."""
        size, crop, frames = self.train.size, self.crop, draw.frames
        regions = region_weights(boxes, size, head=3, hand=3, person=1.5, rest=0.7)
        pictures = self.train.pictures(draw.at)
        corners, target, weight = [], [], []
        for first in range(0, len(draw.at), frames):
            newest = boxes[first + frames - 1]
            hand = newest[(LEFT_HAND, RIGHT_HAND)[int(rng.integers(2))]]
            for box in (newest[HEAD] if rng.random() < 0.8 else None, hand if rng.random() < 0.65 else None):
                x, y = crop_corner(rng, box, crop, size)
                inside = torch.from_numpy(cut_weight(x, y, crop, size, 32))
                for i in range(first, first + frames):
                    corners.append((i, x, y))
                    target.append(pictures[i, :, y : y + crop, x : x + crop])
                    weight.append(inside * regions[i, :, y : y + crop, x : x + crop])
        return Cuts(tuple(corners), frames, crop, torch.stack(target), torch.stack(weight))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        draw, body = batch.draw, self.body
        tokens, hint, skips = self.given(batch)
        body.set_window(draw.frames, causal=draw.causal)
        prediction = body(draw.noisy, draw.timestep, hint, tokens).float()
        body.set_window(1)
        in_latents = weighted((prediction - draw.clean) ** 2, batch.weight)
        if batch.cuts is None:
            return in_latents, {}
        pixels = self.pixels(prediction, skips, batch.cuts)
        return pixels + 0.02 * in_latents, {"pixels": float(pixels.detach()), "latents": float(in_latents.detach())}

    @property
    def body(self) -> StructureGuided:
        return self.modules["body"]  # type: ignore[return-value]

    def given(self, batch: Batch) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """What the diffusion sees beside the noisy latents, tokens (N, n, D) and hint, and the decoder's skips."""
        assert self.body.hint is not None
        tokens = appearance_tokens(self.modules["image_encoder"], batch.reference)  # type: ignore[arg-type]
        hint, hint8, hint4 = self.body.hint(batch.condition)
        return tokens.repeat_interleave(batch.draw.frames, dim=0), hint, (hint8, hint4)

    def pixels(self, latents: Tensor, skips: tuple[Tensor, Tensor], cuts: Cuts) -> Tensor:
        """The pictures' loss on crops of what the decoder makes of clean latents (N, C, h, w)."""
        hints = cuts.of(skips[0], 8), cuts.of(skips[1], 4)
        out = depth_to_space(self.modules["decoder"](cuts.of(latents, 16), hints))
        loss = self.criterion(out, cuts.target, cuts.weight)
        if cuts.frames == 1:
            return loss
        return loss + 0.5 * change_loss(out, cuts.target, cuts.weight, cuts.frames)

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        """One step from pure noise on held-out frames, through the decoder."""
        frames = self.held_out
        vae = deepcopy(self.vae).eval()
        vae.decoder.load_state_dict(average["decoder"].state_dict())
        figures, rows = Figures(), []
        for at in range(len(frames)):
            reference = self.train.reference_of(frames.identity(at))
            tokens = reference_tokens(average, self.train, reference, self.device)
            image, condition = frames.pictures([at]), frames.conditions([at])
            out = one_step(average["body"], vae, condition.to(self.device), tokens).cpu()  # type: ignore[arg-type]
            figures.add(out, image, frames.boxes([at])[0])
            rows.append([to_pixels(condition * 2 - 1)[0], to_pixels(image)[0], to_pixels(out)[0]])
        return figures.mean(), sheet(rows[:3])


@torch.no_grad()
def encode_all(vae: Autoencoder16, frames: Frames, device: torch.device = CPU) -> Tensor:
    """Clean latents of every frame: (N, C, h, w) float32, on the CPU."""
    vae.eval()
    parts = []
    with mixed("auto", device):
        for at in np.array_split(np.arange(len(frames)), max(1, len(frames) // 8)):
            parts.append(vae.encode(frames.pictures(at).to(device)).float().cpu())
    return torch.cat(parts)


def reference_tokens(average: nn.ModuleDict, frames: Frames, at: int = 0, device: torch.device = CPU) -> Tensor:
    """The appearance of one frame: by default of the first one, which an avatar ships with."""
    picture = frames.pictures([at]).to(device)
    return appearance_tokens(average["image_encoder"], (picture + 1) / 2)  # type: ignore[arg-type]


def one_step(body: StructureGuided, vae: Autoencoder16, condition: Tensor, tokens: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) of conditions (B, 3, S, S): one step from the shared noise of seed 0."""
    from engine.noise import draw

    assert body.hint is not None
    hint, hint8, hint4 = body.hint(condition)
    shape = (vae.config.latent_channels, hint.shape[-2], hint.shape[-1])
    noise = torch.from_numpy(draw(shape, 0, 0).copy())[None].expand(len(condition), -1, -1, -1).to(condition.device)
    timestep = torch.full((len(condition),), LAST, device=condition.device)
    latents = body(noise, timestep, hint, tokens)
    return vae.decode(latents.float(), (hint8, hint4)).float()


def load(network: nn.Module, weights: dict[str, Any], prefix: str) -> None:
    """Load what lies under `prefix.` in the weights of a stage before."""
    part = {key[len(prefix) + 1 :]: value for key, value in weights.items() if key.startswith(prefix + ".")}
    network.load_state_dict(part)
