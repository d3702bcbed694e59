"""Stage 4: the face, drawn again at twice the size by inpainting on the aligned crop.

Its input is what the body model really makes of a training frame, cropped; its target the true crop. Mask 1 = keep, 0 = face
to redraw; channels noisy latents, mask, masked picture's latents, in that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.networks.autoencoder import Autoencoder16, depth_to_space
from engine.networks.configs import AvatarConfig
from engine.networks.diffusion import StructureGuided, appearance_tokens, build_image_encoder
from engine.noise import draw as draw_noise
from engine.training.frames import CELL, Frames, sheet, to_condition, to_picture, to_pixels
from engine.training.losses import Criterion, picture_loss, psnr, weighted
from engine.training.stages.body import LAST, Drawer, load, one_step, reference_tokens

# Where the features lie in an aligned crop, as parts of its size: both eyes, the mouth (FFHQ's template), and their spread.
FEATURES = ((0.377, 0.469, 0.07), (0.623, 0.469, 0.07), (0.502, 0.735, 0.11))


@dataclass(frozen=True)
class Crops:
    """Aligned crops of frames: truth, what the body model painted, the mesh, and where the face is. uint8."""

    truth: np.ndarray  # (N, s, s, 3)
    painted: np.ndarray  # (N, s, s, 3)
    condition: np.ndarray  # (N, s, s, 3)
    face: np.ndarray  # (N, s, s), 255 = face


def masked(painted: np.ndarray, face: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, s, s) with the face greyed out, and the mask (B, 1, s/16, s/16): the part of each cell that is kept."""
    keep = 1 - (torch.from_numpy(face)[:, None] > 127).float()
    return to_picture(painted) * keep, F.avg_pool2d(keep, CELL)


def feature_weights(size: int, face: Tensor, margin: int = 10) -> Tensor:
    """(B, 1, size, size): heavier on the face, its eyes and mouth; nothing within `margin` of the border, which is blended out."""
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    weight = 1 + 1.5 * face
    for cx, cy, spread in FEATURES:
        weight = weight + 4 * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread**2))
    inside = torch.zeros(size, size)
    inside[margin:-margin, margin:-margin] = 1
    return weight * inside


class FaceStage:
    """The head's diffusion and decoder, on pixels and latents of the aligned crop."""

    name = "face"

    def __init__(
        self,
        config: AvatarConfig,
        train: Frames,
        held_out: Frames,
        before: dict[str, Any],
        batch: int = 8,
        criterion: Criterion = picture_loss,
    ) -> None:
        assert config.vae is not None and config.head_vae is not None
        self.criterion = criterion
        self.frames, self.size = train, config.head.latent_size * CELL
        self.vae = Autoencoder16(**config.vae)
        load(self.vae, before, "vae")
        body_vae = Autoencoder16(**config.vae)
        load(body_vae, before, "vae")
        load(body_vae.decoder, before, "decoder")
        body, encoder = StructureGuided.build(config.body), build_image_encoder(config.image_encoder)
        load(body, before, "body")
        load(encoder, before, "image_encoder")
        for network in (self.vae, body_vae, body, encoder):
            network.to(memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        paint = {"body": body, "image_encoder": encoder}
        self.crops = crops_of(paint, body_vae, train, train, self.size)
        self.held_out = crops_of(paint, body_vae, held_out, train, self.size)

        head = StructureGuided.build(config.head)
        decoder = Autoencoder16(**{**config.vae, **config.head_vae}).decoder
        decoder.load_state_dict(_shared(body_vae.decoder, decoder), strict=False)
        assert head.hint is not None and body.hint is not None
        head.hint.load_state_dict(_shared(body.hint, head.hint), strict=False)
        self.modules = nn.ModuleDict({"head": head, "head_decoder": decoder})

        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            self.tokens = appearance_tokens(encoder, (to_picture(self.crops.truth[:1]) + 1) / 2).float()
            self.latents = torch.cat([self.vae.encode(to_picture(p)) for p in _parts(self.crops.truth)])
        self.kept, self.mask = self.encode_masked(self.crops)
        self.draw = Drawer(train, self.latents, batch, last=0.75, windows=0.2)

    @torch.no_grad()
    def encode_masked(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """The two inpainting inputs of every crop: masked latents (N, C, h, w) and masks (N, 1, h, w)."""
        pairs = []
        with torch.autocast("cpu", torch.bfloat16):
            for painted, face in zip(_parts(crops.painted), _parts(crops.face), strict=True):
                picture, mask = masked(painted, face)
                pairs.append((self.vae.encode(picture), mask))
        return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])

    def loss(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        draw = self.draw(rng)
        head: StructureGuided = self.modules["head"]  # type: ignore[assignment]
        assert head.hint is not None
        head.set_window(draw.frames)
        hint, hint8, hint4 = head.hint(to_condition(self.crops.condition[draw.at]))
        sample = torch.cat([draw.noisy, self.mask[draw.at], self.kept[draw.at]], dim=1)
        prediction = head(sample, torch.from_numpy(draw.timestep), hint, self.tokens).float()
        head.set_window(1)
        out = depth_to_space(self.modules["head_decoder"](prediction, (hint8, hint4)))
        judged = draw.judged[:, None, None, None]
        face = torch.from_numpy(self.crops.face[draw.at] > 127).float()[:, None]
        pixels = self.criterion(out, to_picture(self.crops.truth[draw.at]), feature_weights(self.size, face) * judged)
        in_latents = weighted((prediction - self.latents[draw.at]) ** 2, judged.expand(-1, 1, *prediction.shape[2:]))
        return pixels + 0.02 * in_latents, {"pixels": float(pixels.detach()), "latents": float(in_latents.detach())}

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        """The crop before and after, against the truth, without the border that blending hides."""
        crops, rows = self.held_out, []
        kept, mask = self.encode_masked(crops)
        figures: dict[str, list[float]] = {"psnr_before": [], "psnr_after": []}
        inner = np.s_[..., 20:-20, 20:-20]
        for i in range(len(crops.truth)):
            condition = to_condition(crops.condition[i : i + 1])
            hint, hint8, hint4 = average["head"].hint(condition)  # type: ignore[union-attr, operator]
            shape = tuple(self.latents.shape[1:])
            noise = torch.from_numpy(draw_noise(shape, 0, 0).copy())[None]
            sample = torch.cat([noise, mask[i : i + 1], kept[i : i + 1]], dim=1)
            latents = average["head"](sample, torch.tensor([LAST]), hint, self.tokens).float()
            out = depth_to_space(average["head_decoder"](latents, (hint8, hint4))).float()
            truth, painted = to_picture(crops.truth[i : i + 1]), to_picture(crops.painted[i : i + 1])
            figures["psnr_before"].append(psnr(painted[inner], truth[inner]))
            figures["psnr_after"].append(psnr(out[inner], truth[inner]))
            rows.append([crops.condition[i], crops.truth[i], crops.painted[i], to_pixels(out)[0]])
        return {name: float(np.mean(values)) for name, values in figures.items()}, sheet(rows[:4])


@torch.no_grad()
def crops_of(paint: dict[str, Any], vae: Autoencoder16, frames: Frames, train: Frames, size: int) -> Crops:
    """Aligned crops of all `frames`, with what the body model paints at its one step."""
    from engine import face

    n = len(frames)
    truth, painted_crops, conditions = (np.empty((n, size, size, 3), np.uint8) for _ in range(3))
    crops = Crops(truth, painted_crops, conditions, np.empty((n, size, size), np.uint8))
    with torch.autocast("cpu", torch.bfloat16):
        tokens = reference_tokens(paint, train)  # type: ignore[arg-type]
        for at in np.array_split(np.arange(n), max(1, n // 4)):
            painted = to_pixels(one_step(paint["body"], vae, frames.conditions(at), tokens))
            for picture, i in zip(painted, at, strict=True):
                clip, index = frames.clips[frames.index[i, 0]], frames.index[i, 1]
                transform = np.ascontiguousarray(clip.faces[index])
                face.warp(np.ascontiguousarray(picture), transform, size, crops.painted[i])
                face.warp(np.ascontiguousarray(clip.frames[index]), transform, size, crops.truth[i])
                face.warp(np.ascontiguousarray(clip.condition[index]), transform, size, crops.condition[i])
                mask = np.repeat(clip.face_mask[index][..., None], 3, axis=2)
                out = np.empty((size, size, 3), np.uint8)
                face.warp(mask, transform, size, out)
                crops.face[i] = out[..., 0]
    return crops


def _shared(source: nn.Module, target: nn.Module) -> dict[str, Tensor]:
    """Weights of `source` that have a place of the same shape in `target`."""
    wanted = target.state_dict()
    return {k: v for k, v in source.state_dict().items() if k in wanted and wanted[k].shape == v.shape}


def _parts(array: np.ndarray, size: int = 16) -> list[np.ndarray]:
    return [array[i : i + size] for i in range(0, len(array), size)]
