"""The networks' sizes, by name: `tiny` is the bundled avatar's, `sd15` the full size of Make-Your-Anchor.

Head dimensions: diffusers calls the number of heads `attention_head_dim`; the values here follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DiffusionConfig:
    """One structure-guided diffusion model: a hint encoder, a UNet, and the ControlNet copied from it."""

    unet: dict[str, Any]
    hint: (
        dict[str, Any] | None
    )  # HintEncoder; None: the ControlNet's stock conditioning embedding, on the picture itself
    latent_size: int


@dataclass(frozen=True)
class AvatarConfig:
    """All networks of an avatar. `vae` None: the base model's, BASE_VAE; `head_vae` None: the head has no decoder of its own."""

    body: DiffusionConfig
    head: DiffusionConfig
    vae: dict[str, Any] | None
    head_vae: dict[str, Any] | None
    image_encoder: dict[str, Any]  # CLIPVisionConfig
    hand: DiffusionConfig | None = None
    hand_vae: dict[str, Any] | None = None  # the hands' own decoder


def _tiny_unet(in_channels: int, size: int, channels: tuple[int, ...], attends: int | None = None) -> dict[str, Any]:
    """Attention in the middle block, and on the way up in block `attends`: only there features know the pose.

    (ControlNet residuals enter behind the middle block.)
    """
    up = ["CrossAttnUpBlock2D" if i == attends else "UpBlock2D" for i in range(len(channels))]
    return {
        "sample_size": size,
        "in_channels": in_channels,
        "out_channels": 16,
        "block_out_channels": channels,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D",) * len(channels),
        "up_block_types": tuple(up),
        "cross_attention_dim": 64,
        "attention_head_dim": 2,
        "norm_num_groups": 16,
    }


def _sd15_unet(in_channels: int, size: int) -> dict[str, Any]:
    return {"sample_size": size, "in_channels": in_channels, "out_channels": 4, "cross_attention_dim": 768}


TINY = AvatarConfig(
    body=DiffusionConfig(
        _tiny_unet(16, 32, (64, 80, 80), attends=1), {"channels": (32, 48, 64), "layers": (0, 1, 1)}, 32
    ),
    head=DiffusionConfig(_tiny_unet(33, 16, (64, 64)), {"channels": (32, 48, 64), "layers": (0, 0, 1)}, 16),
    vae={
        "encoder_channels": (32, 48, 80),
        "encoder_layers": (1, 1, 1),
        "decoder_channels": (80, 64, 48),
        "decoder_layers": (3, 2, 1),
        "hint_channels": (48, 32),
    },
    head_vae={"decoder_layers": (2, 2, 1)},
    image_encoder={
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 112,
        "patch_size": 16,
    },
    hand=DiffusionConfig(_tiny_unet(33, 8, (32, 32)), {"channels": (24, 32, 48), "layers": (0, 1, 1)}, 8),
    hand_vae={"decoder_channels": (56, 48, 32), "decoder_layers": (1, 1, 1), "hint_channels": (32, 24)},
)

# AutoencoderKL of Stable Diffusion 1.5: latents are an eighth of the picture, 4 deep, and are multiplied by 0.18215.
BASE_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "sample_size": 512,
}

SD15 = AvatarConfig(
    body=DiffusionConfig(_sd15_unet(4, 64), None, 64),
    head=DiffusionConfig(_sd15_unet(9, 32), None, 32),
    vae=None,
    head_vae=None,
    image_encoder={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
    },
)

CONFIGS = {"tiny": TINY, "sd15": SD15}
