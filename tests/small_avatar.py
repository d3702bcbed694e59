"""A person of 128 pixels: a synthetic clip, a configuration of the smallest networks, and an avatar of random ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from engine import toml
from engine.avatar import Avatar, BodyFields, CameraFields
from engine.camera import look_at
from engine.networks import folder as stored
from engine.networks.configs import AvatarConfig, DiffusionConfig
from engine.networks.folder import AvatarNetworks
from engine.training import bundle
from engine.training.dataset import Clip, ClipFields, SplitFields

SIZE, FRAMES = 128, 10


def _unet(in_channels: int, size: int, up: str = "UpBlock2D") -> dict[str, object]:
    return {
        "sample_size": size,
        "in_channels": in_channels,
        "out_channels": 8,
        "block_out_channels": (32, 48),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D", up),
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "norm_num_groups": 16,
    }


HINT = {"channels": (16, 16, 32), "layers": (0, 0, 1)}
MINI = AvatarConfig(
    body=DiffusionConfig(_unet(8, 8, "CrossAttnUpBlock2D"), HINT, 8),
    head=DiffusionConfig(_unet(17, 4), HINT, 4),
    vae={
        "latent_channels": 8,
        "encoder_channels": (16, 24, 32),
        "encoder_layers": (1, 1, 1),
        "decoder_channels": (32, 24, 16),
        "decoder_layers": (1, 1, 1),
        "hint_channels": (16, 16),
    },
    head_vae={"decoder_layers": (1, 0, 1)},
    image_encoder={
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    },
    hand=DiffusionConfig(_unet(17, 4), HINT, 4),
    hand_vae={"decoder_layers": (1, 0, 1)},
)


def random_networks(head: bool = True, seed: int = 0, hand: bool = True) -> AvatarNetworks:
    """MINI with random weights, those included that start at zero, and latents of some mean and variance."""
    torch.manual_seed(seed)
    networks = stored.build(MINI, head, hand)
    with torch.no_grad():
        for _, network in networks.parts():
            for parameter in network.parameters():
                if parameter.ndim > 1 and not parameter.any():
                    parameter.normal_(0, 0.5 / parameter[0].numel() ** 0.5)
        networks.vae.latent_norm.running_mean.normal_(0, 0.1)
        networks.vae.latent_norm.running_var.uniform_(0.5, 1.5)
    return networks.eval()


def write_clip(folder: Path, frames: int = FRAMES, size: int = SIZE) -> Path:
    """An observed clip: a bright square, the person, wanders over a gradient; the condition shows the square alone."""
    observed = folder / "observed"
    observed.mkdir(parents=True)
    camera = CameraFields.of(look_at((0.0, 0.3, 2.0), (0.0, 0.25, 0.0), size, 0.5))
    splits = SplitFields(((0, frames - 2),), {"end": ((frames - 2, frames),)})
    text = toml.dumps(ClipFields(25.0, size, camera, splits, "square", BodyFields(), "CC0-1.0", 3))
    (folder / "clip.toml").write_text(text, encoding="utf-8")
    y, x = np.mgrid[:size, :size]
    pictures = np.empty((frames, size, size, 3), np.uint8)
    conditions, masks = np.zeros_like(pictures), np.zeros((frames, size, size), np.uint8)
    boxes, faces = np.empty((frames, 4, 4), np.float32), np.empty((frames, 2, 3), np.float32)
    hand_masks = np.zeros_like(masks)
    for i in range(frames):
        corner = size // 8 + 3 * i
        square = np.s_[corner : corner + size // 2, corner : corner + size // 2]
        pictures[i] = np.stack([x * 255 // size, y * 255 // size, np.full_like(x, 90)], axis=-1)
        pictures[i][square] = (230, 180, 150)
        conditions[i][square] = (128, 128, 255)
        masks[i][square] = 255
        boxes[i] = (corner, corner, corner + size // 2, corner + size // 2)
        faces[i] = ((1.0, 0.0, -corner), (0.0, 1.0, -corner))
        hand_masks[i, corner : corner + size // 4, corner : corner + size // 4] = 1 + i % 2
    np.save(folder / "frames.npy", pictures)
    np.save(folder / "matte.npy", masks)
    for name, array in (
        ("condition", conditions), ("boxes", boxes), ("faces", faces), ("face_mask", masks),
        ("hands", np.stack([faces, faces], axis=1)), ("hand_mask", hand_masks),
    ):  # fmt: skip
        np.save(observed / f"{name}.npy", array)
    return folder


def write_avatar(folder: Path, head: bool = True, hand: bool = True, seed: int = 0) -> Avatar:
    """An avatar of random networks in FOLDER/avatar, not exported yet, of the clip in FOLDER/square."""
    clips = [Clip.open(write_clip(folder / "square"))]
    networks = random_networks(head, seed, hand)
    return bundle.write(networks, bundle.describe(clips, networks, "square"), clips, folder / "avatar")
