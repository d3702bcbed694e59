"""An avatar's networks as graphs: what each one takes and gives, by name, with the picture formats of the live path.

Pictures go in and out as bytes, (1, H, W, 3) uint8; everything else is float32. Hints travel channels last, (1, h, w, C), as
runtimes hold them, so that nothing is reordered on the way. Shapes are static. Names are the seam to the engine: what `hint`
gives, `body` and `decoder` take. It knows torch, not ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

from engine.avatar import Avatar, LatentFields
from engine.errors import InputError
from engine.networks.autoencoder import Autoencoder16, Decoder
from engine.networks.diffusion import StructureGuided, appearance_tokens
from engine.networks.folder import AvatarNetworks
from engine.networks.hint import HintEncoder

WINDOWS = (1, 2)  # frames of a window that the body is exported for
HINTS = ("hint16", "hint8", "hint4")


@dataclass(frozen=True)
class Graph:
    """A network ready to be traced: positional inputs in the order of `inputs`, outputs in that of `outputs`."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]  # random ones, of the right shape, type and range
    outputs: tuple[str, ...]


def graphs(avatar: Avatar, networks: AvatarNetworks, seed: int = 0) -> Iterator[Graph]:
    """Every graph of `avatar`, one after the other: the body runs windows, and is another graph for each length."""
    random = torch.Generator().manual_seed(seed)
    vision = networks.image_encoder.config
    tokens = 1 + (vision.image_size // vision.patch_size) ** 2
    yield _appearance("appearance", networks, avatar.size, random)
    yield from _guided("", avatar.size, avatar.latent, networks.body, networks.vae.decoder, tokens, random)
    if networks.head is not None and networks.head_decoder is not None:
        fields = avatar.face
        yield _appearance("face_appearance", networks, fields.size, random)
        yield Graph("encoder", EncoderGraph(networks.vae), {"image": picture(fields.size, random)}, ("latents",))
        yield from _guided(
            "face", fields.size, fields.latent, networks.head, networks.head_decoder.decoder, tokens, random
        )


def picture(size: int, random: torch.Generator) -> Tensor:
    """A random picture (1, size, size, 3) uint8."""
    return torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8, generator=random)


class AppearanceGraph(nn.Module):
    """The reference picture to the appearance tokens (1, n, D)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        return appearance_tokens(self.encoder, image.permute(0, 3, 1, 2).float() / 255)  # type: ignore[arg-type]


class HintGraph(nn.Module):
    """The mesh condition to its pyramid of hints, channels last."""

    def __init__(self, hint: HintEncoder) -> None:
        super().__init__()
        self.hint = hint

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hint16, hint8, hint4 = self.hint.from_cells(cells(condition).float() / 255)
        return to_last(hint16), to_last(hint8), to_last(hint4)


class DiffusionGraph(nn.Module):
    """UNet and ControlNet as one, for windows of `frames`."""

    def __init__(self, guided: StructureGuided, frames: int) -> None:
        super().__init__()
        guided.set_window(frames)
        for network in (guided.unet, guided.controlnet):
            if not isinstance(network.time_proj, TimestepTables):
                network.time_proj = TimestepTables(network.time_proj)
        self.unet, self.controlnet = guided.unet, guided.controlnet
        self._guided = [guided]  # not a submodule: its hint encoder is another graph's

    def forward(self, sample: Tensor, timestep: Tensor, hint16: Tensor, appearance: Tensor) -> Tensor:
        return self._guided[0](sample, timestep, from_last(hint16), appearance)  # type: ignore[no-any-return]


class TimestepTables(nn.Module):
    """Sinusoids of whole timesteps 0 to 1023 by the angle sum of two tables: sin(32 a f + b f), a and b below 32.

    The same function as diffusers' Timesteps. That multiplies up to 999 by a frequency, and in bf16 999 is 1000: runtimes
    that compute so would see another time. Here nothing is larger than 1.
    """

    def __init__(self, plain: Timesteps) -> None:
        super().__init__()
        half = plain.num_channels // 2
        steps = torch.arange(half, dtype=torch.float64) / (half - plain.downscale_freq_shift)
        frequency = torch.exp(-math.log(10000) * steps) * plain.scale
        angle = torch.arange(32, dtype=torch.float64)[:, None] * frequency  # (32, half)
        self.flip = plain.flip_sin_to_cos
        for name, table in (("fine", angle), ("coarse", 32 * angle)):
            self.register_buffer(name, torch.stack([table.sin(), table.cos()], 1).float(), persistent=False)

    def forward(self, timesteps: Tensor) -> Tensor:
        sin_a, cos_a = self.get_buffer("coarse")[timesteps // 32].unbind(1)  # each (N, half)
        sin_b, cos_b = self.get_buffer("fine")[timesteps % 32].unbind(1)
        sin, cos = sin_a * cos_b + cos_a * sin_b, cos_a * cos_b - sin_a * sin_b
        return torch.cat([cos, sin] if self.flip else [sin, cos], dim=-1)


class EncoderGraph(nn.Module):
    """A picture to latents of mean 0 and variance 1."""

    def __init__(self, vae: Autoencoder16) -> None:
        super().__init__()
        self.encoder, self.latent_norm = vae.encoder, vae.latent_norm

    def forward(self, image: Tensor) -> Tensor:
        latents: Tensor = self.latent_norm(self.encoder.from_cells(cells(image).float() / 127.5 - 1))
        return latents


class DecoderGraph(nn.Module):
    """Latents and skips to a picture."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor, hint8: Tensor, hint4: Tensor) -> Tensor:
        x = self.decoder(latents, (from_last(hint8), from_last(hint4)))  # (1, 48, h, w)
        x = (x * 127.5 + 128).clamp(0, 255).to(torch.uint8)  # bytes before they move
        x = to_last(x)
        _, h, w, c = x.shape
        return x.reshape(1, h, w, 4, c // 4).permute(0, 1, 3, 2, 4).reshape(1, 4 * h, 4 * w, c // 16)  # type: ignore[no-any-return]


def to_last(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h, w, C)."""
    return x.permute(0, 2, 3, 1)


def from_last(x: Tensor) -> Tensor:
    """(B, h, w, C) to (B, C, h, w)."""
    return x.permute(0, 3, 1, 2)


def cells(image: Tensor) -> Tensor:
    """(1, H, W, 3) bytes to (1, 48, H/4, W/4) bytes: networks.autoencoder.space_to_depth, moving runs of 12 bytes."""
    _, height, width, c = image.shape
    x = image.reshape(1, height // 4, 4, width // 4, 4 * c).permute(0, 1, 3, 2, 4)
    return x.reshape(1, height // 4, width // 4, 16 * c).permute(0, 3, 1, 2)


def _appearance(name: str, networks: AvatarNetworks, size: int, random: torch.Generator) -> Graph:
    return Graph(name, AppearanceGraph(networks.image_encoder), {"image": picture(size, random)}, ("tokens",))


def _guided(
    prefix: str,
    size: int,
    latent: LatentFields,
    guided: StructureGuided,
    decoder: Decoder,
    tokens: int,
    random: torch.Generator,
) -> Iterator[Graph]:
    """Hint, diffusion and decoder of the body (no `prefix`) or of the face."""
    if guided.hint is None or latent.size * 16 != size:
        raise InputError(
            "export", prefix or "body", "a network of our own kind, 16 pixels a latent", f"latents {latent}"
        )
    condition = picture(size, random)
    with torch.no_grad():
        hint = HintGraph(guided.hint)
        hints = dict(zip(HINTS, hint(condition), strict=True))
    named = f"{prefix}_" if prefix else ""
    yield Graph(f"{named}hint", hint, {"condition": condition}, HINTS)

    unet = guided.unet.config
    for frames in (1,) if prefix else WINDOWS:
        window = {
            "sample": torch.randn(frames, unet.in_channels, latent.size, latent.size, generator=random),
            "timestep": torch.full((frames,), 999),
            "hint16": hints["hint16"].expand(frames, -1, -1, -1).contiguous(),
            "appearance": torch.randn(1, tokens, unet.cross_attention_dim, generator=random),
        }
        name = prefix or ("body" if frames == 1 else f"body_w{frames}")
        yield Graph(name, DiffusionGraph(guided, frames), window, ("prediction",))
    guided.set_window(1)

    latents = torch.randn(1, latent.channels, latent.size, latent.size, generator=random)
    skips = {name: hints[name] for name in HINTS[1:]}
    yield Graph(f"{named}decoder", DecoderGraph(decoder), {"latents": latents, **skips}, ("image",))
