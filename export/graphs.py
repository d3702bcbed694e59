"""An avatar's networks as graphs: what each one takes and gives, by name, with the picture formats of the live path.

Pictures go in and out as bytes, (1, H, W, 3) uint8, hands two at a time; everything else is float32. Hints travel channels last, (1, h, w, C), as
runtimes hold them, so that nothing is reordered on the way. Shapes are static, but for how many frames or crops there are,
which is settled when the graph is loaded. Networks compute in whatever precision their weights are in, inputs and outputs stay as
they are. Names are the seam to the engine: what `hint` gives, `body` and `decoder` take. It knows torch, not ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

from engine.appearance import read_picture
from engine.avatar import Avatar, DenoiseFields, FaceFields, HandFields
from engine.errors import InputError
from engine.networks.autoencoder import Autoencoder16, Decoder
from engine.networks.bank import Bank
from engine.networks.diffusion import StructureGuided, appearance_tokens
from engine.networks.folder import AvatarNetworks
from engine.networks.hint import HintEncoder
from engine.predict import FILLED, NEW, PAST

TRACED = 3  # frames or crops that an open graph is traced with
BANK = 2  # past frames of the body's bank, where the avatar's own mode is another
HINTS = ("hint16", "hint8", "hint4")
HANDS = 2  # crops that are painted at once
CONDITION = "condition"


@dataclass(frozen=True)
class Graph:
    """A network ready to be traced: positional inputs in the order of `inputs`, outputs in that of `outputs`."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]  # random ones, of the right shape, type and range
    outputs: tuple[str, ...]
    open: tuple[str, ...] = ()  # inputs whose first dimension is open: as many for each of its frames as here
    frames: int = 1  # or crops, that `inputs` are of
    batch: int | None = None  # how many there are live; None: one if it is not open, else any

    def of(self, frames: int) -> dict[str, Tensor]:
        """`inputs` of so many frames: the first ones, again and again. ValueError where they are not open."""
        if not self.open and frames != self.frames:
            raise ValueError(f"{self.name} is a graph for {self.frames}, not for {frames}")
        at = [i % self.frames for i in range(frames)]
        return {
            name: tensor.reshape(-1, self.frames, *tensor.shape[1:])[:, at].flatten(0, 1)
            if name in self.open
            else tensor
            for name, tensor in self.inputs.items()
        }

    def computed(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What torch says to these inputs, by output."""
        with torch.no_grad():
            said = self.module.eval()(*(torch.from_numpy(inputs[name]) for name in self.inputs))
        return arrays(dict(zip(self.outputs, said if isinstance(said, tuple) else (said,), strict=True)))


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The same as NumPy's."""
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def graphs(avatar: Avatar, networks: AvatarNetworks, seed: int = 0) -> Iterator[Graph]:
    """Every graph of `avatar`, one after the other: the body runs windows, and is another graph for each length."""
    random = torch.Generator().manual_seed(seed)
    vision = networks.image_encoder.config
    tokens = 1 + (vision.image_size // vision.patch_size) ** 2
    vae, base = networks.vae, isinstance(networks.vae, AutoencoderKL)
    decoder = BaseDecoderGraph(vae) if base else DecoderGraph(vae.decoder)
    yield from _appearance("appearance", networks, avatar, "body", random)
    yield from _guided("", avatar, networks.body, decoder, tokens, random)
    if networks.head is not None:
        if networks.head_decoder is not None:
            decoder = DecoderGraph(networks.head_decoder.decoder)
        yield from _appearance("face_appearance", networks, avatar, "head", random)
        encoder = BaseEncoderGraph(vae) if base else EncoderGraph(vae)
        yield _encoder("encoder", encoder, avatar.face.size, 1, random)
        yield from _guided("face", avatar.face, networks.head, decoder, tokens, random)
    if networks.hand is not None and networks.hand_decoder is not None:
        yield _encoder("hand_encoder", EncoderGraph(vae), avatar.hands.size, HANDS, random)
        decoder = DecoderGraph(networks.hand_decoder.decoder)
        yield from _guided("hand", avatar.hands, networks.hand, decoder, tokens, random, HANDS)


def pictures(height: int, width: int, random: torch.Generator, count: int = 1) -> Tensor:
    """Random pictures (count, height, width, 3) uint8."""
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=random)


class AppearanceGraph(nn.Module):
    """The reference picture to the appearance tokens (1, n, D)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        return appearance_tokens(self.encoder, floats(from_last(image), self) / 255)  # type: ignore[arg-type]


class HintGraph(nn.Module):
    """The mesh condition to its pyramid of hints, channels last."""

    def __init__(self, hint: HintEncoder) -> None:
        super().__init__()
        self.hint = hint

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hint16, hint8, hint4 = self.hint.from_cells(floats(cells(condition), self) / 255)
        return to_last(hint16), to_last(hint8), to_last(hint4)


class DiffusionGraph(nn.Module):
    """UNet and ControlNet as one, for windows of `frames`; a batch is one window, or two: the unconditional branch's first.

    `frames` None: of any length. Without a hint encoder the ControlNet sees the condition itself, as bytes. With `filled` and `past` (engine.networks.bank) it
    also gives the frame's own keys and values.
    """

    def __init__(self, guided: StructureGuided, frames: int | None, denoise: DenoiseFields) -> None:
        super().__init__()
        windows = (1 if denoise.guidance == 1 else 2) if frames is None else None
        guided.set_window(frames, denoise.normalisation, windows=windows)
        guided.control_scale = denoise.control_scale
        for network in (guided.unet, guided.controlnet):
            if not isinstance(network.time_proj, TimestepTables):
                network.time_proj = TimestepTables(network.time_proj)
        self.unet, self.controlnet = guided.unet, guided.controlnet
        self._guided = [guided]  # not a submodule: its hint encoder is another graph's

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        hint: Tensor,
        appearance: Tensor,
        filled: Tensor | None = None,
        *past: Tensor,
    ) -> Tensor | tuple[Tensor, ...]:
        seen = from_last(hint)
        if self._guided[0].hint is None:  # a picture's bytes
            seen = floats(seen, self) / 255
        if (
            len(appearance) > 1
        ):  # shape[0], as len() would make a number of an open dimension; a branch's tokens for each of its frames
            appearance = appearance[:, None].expand(-1, sample.shape[0] // len(appearance), -1, -1).flatten(0, 1)
        bank = None if filled is None else Bank(past, filled)
        prediction: Tensor = self._guided[0](sample, timestep, seen, appearance, bank)
        return prediction if bank is None else (prediction, *bank.new)


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
        latents: Tensor = self.latent_norm(self.encoder.from_cells(floats(cells(image), self) / 127.5 - 1))
        return latents


class BaseEncoderGraph(nn.Module):
    """A picture to the mean of the base model's posterior, before it is scaled."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant_conv, self.channels = vae.encoder, vae.quant_conv, vae.config.latent_channels

    def forward(self, image: Tensor) -> Tensor:
        moments = self.encoder(floats(from_last(image), self) / 127.5 - 1)
        moments = moments if self.quant_conv is None else self.quant_conv(moments)
        return moments[:, : self.channels]  # type: ignore[no-any-return]


class BaseDecoderGraph(nn.Module):
    """The base model's latents, no longer scaled, to a picture."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents: Tensor) -> Tensor:
        x = latents if self.post_quant_conv is None else self.post_quant_conv(latents)
        x = self.decoder(x)  # (1, 3, H, W)
        return to_last((x * 127.5 + 128).clamp(0, 255).to(torch.uint8))


class DecoderGraph(nn.Module):
    """Latents and skips to a picture."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor, hint8: Tensor, hint4: Tensor) -> Tensor:
        x = self.decoder(latents, (from_last(hint8), from_last(hint4)))  # (n, 48, h, w)
        x = (x * 127.5 + 128).clamp(0, 255).to(torch.uint8)  # bytes before they move
        x = to_last(x)
        n, h, w, c = x.shape
        return x.reshape(n, h, w, 4, c // 4).permute(0, 1, 3, 2, 4).reshape(n, 4 * h, 4 * w, c // 16)  # type: ignore[no-any-return]


def floats(x: Tensor, network: nn.Module) -> Tensor:
    """Bytes as what `network` computes in."""
    return x.to(next(network.parameters()).dtype)


def to_last(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h, w, C)."""
    return x.permute(0, 2, 3, 1)


def from_last(x: Tensor) -> Tensor:
    """(B, h, w, C) to (B, C, h, w)."""
    return x.permute(0, 3, 1, 2)


def cells(image: Tensor) -> Tensor:
    """(n, H, W, 3) bytes to (n, 48, H/4, W/4) bytes: networks.autoencoder.space_to_depth, moving runs of 12 bytes."""
    n, height, width, c = image.shape
    x = image.reshape(n, height // 4, 4, width // 4, 4 * c).permute(0, 1, 3, 2, 4)
    return x.reshape(n, height // 4, width // 4, 16 * c).permute(0, 3, 1, 2)


def _appearance(
    name: str, networks: AvatarNetworks, avatar: Avatar, part: str, random: torch.Generator
) -> Iterator[Graph]:
    """The graph that reads the reference picture of `part`; none where the avatar has ready-made tokens."""
    file = avatar.folder / avatar.appearance.get(part, f"appearance/{part}.png")
    if file.suffix != ".npy":
        height, width, _ = read_picture(file).shape
        image = {"image": pictures(height, width, random)}
        yield Graph(name, AppearanceGraph(networks.image_encoder), image, ("tokens",))


def _guided(
    prefix: str,
    fields: Avatar | FaceFields | HandFields,
    guided: StructureGuided,
    decoder: nn.Module,
    tokens: int,
    random: torch.Generator,
    crops: int = 1,
) -> Iterator[Graph]:
    """Hint, diffusion and decoder of the body (no `prefix`), or of what is painted again in `crops` at once."""
    latent, denoise, named = fields.latent, fields.denoise, f"{prefix}_" if prefix else ""
    condition = pictures(fields.size, fields.size, random, TRACED)
    told, skips, cell = {CONDITION: condition}, {}, 8  # pixels of a latent
    if guided.hint is not None:
        hint, cell = HintGraph(guided.hint), 16
        with torch.no_grad():
            told = dict(zip(HINTS, hint(condition), strict=True))
        skips = {name: told.pop(name) for name in HINTS[1:]}
        yield Graph(f"{named}hint", hint, {CONDITION: condition}, HINTS, (CONDITION,), TRACED, crops)
    if latent.size * cell != fields.size:
        raise InputError("export", f"{prefix or 'body'}: latent.size", f"{fields.size} / {cell}", str(latent.size))

    unet = guided.unet.config
    branches = 1 if denoise.guidance == 1 else 2

    def several(frames: int) -> dict[str, Tensor]:
        count = branches * frames
        return {
            "sample": torch.randn(count, unet.in_channels, latent.size, latent.size, generator=random),
            "timestep": torch.full((count,), 999),
            **{name: array[:frames].repeat(branches, 1, 1, 1) for name, array in told.items()},
            "appearance": torch.randn(branches, tokens, unet.cross_attention_dim, generator=random),
        }

    open_ = several(TRACED)
    by_frame = tuple(name for name in open_ if name != "appearance")
    alone = DiffusionGraph(guided, 1, denoise)
    if prefix:
        yield Graph(prefix, alone, open_, ("prediction",), by_frame, TRACED, crops)
    else:
        yield Graph("body", alone, several(1), ("prediction",))
        diffusion = DiffusionGraph(guided, None, denoise)
        yield Graph("body_windows", diffusion, open_, ("prediction",), by_frame, TRACED)
        yield _banked(DiffusionGraph(guided, 1, denoise), denoise, several(1), random)
    guided.set_window(1)

    latents = torch.randn(TRACED, latent.channels, latent.size, latent.size, generator=random)
    decoded = {"latents": latents, **skips}
    yield Graph(f"{named}decoder", decoder, decoded, ("image",), tuple(decoded), TRACED, crops)


def _encoder(name: str, encoder: nn.Module, size: int, crops: int, random: torch.Generator) -> Graph:
    image = {"image": pictures(size, size, random, TRACED)}
    return Graph(name, encoder, image, ("latents",), tuple(image), TRACED, crops)


def _banked(
    diffusion: DiffusionGraph, denoise: DenoiseFields, frame: dict[str, Tensor], random: torch.Generator
) -> Graph:
    """The body for one frame beside a bank that is not full yet, where it has more than one slot."""
    slots = denoise.context if denoise.mode == "bank" else BANK
    filled = torch.tensor([max(1, slots - 1)])
    with torch.no_grad():
        new = diffusion(*frame.values(), filled)[1:]
    shapes = {"{}x{}".format(*x.shape[-2:]): (*x.shape[:3], slots, *x.shape[3:]) for x in new}  # tokens x channels
    past = {PAST + name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return Graph("body_bank", diffusion, {**frame, FILLED: filled, **past}, ("prediction", *(NEW + n for n in shapes)))
