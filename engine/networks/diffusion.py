"""The structure-guided diffusion model (arXiv 2403.16510, 3.2): UNet, pose ControlNet, hint encoder; and the appearance encoder.

It predicts from noisy latents, a timestep per frame, hints and appearance tokens. It knows nothing of schedules or pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from engine.networks.attention import Scope, set_window
from engine.networks.configs import DiffusionConfig
from engine.networks.hint import HintEncoder

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class StructureGuided(nn.Module):
    """eps_theta(z_t, t, c_appearance, c_pose): ControlNet residuals, weighted by `control_scale` (W_c), enter the UNet.

    `hint` is None where the ControlNet reads the condition picture itself (full-size checkpoints).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        controlnet: ControlNetModel,
        hint: HintEncoder | None,
        control_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.unet, self.controlnet, self.hint = unet, controlnet, hint
        self.control_scale = control_scale
        self.set_window(1)

    @classmethod
    def build(cls, config: DiffusionConfig) -> StructureGuided:
        """Fresh weights; the ControlNet is copied from the UNet's encoder, its zero convolutions are zero."""
        unet = UNet2DConditionModel(**config.unet)
        embedding: dict[str, Any] = {}
        hint = None
        if config.hint is not None:
            hint = HintEncoder(**config.hint)
            channels = hint.config.channels[-1]
            embedding = {"conditioning_channels": channels, "conditioning_embedding_out_channels": (channels,)}
        return cls(unet, ControlNetModel.from_unet(unet, **embedding), hint)

    def set_window(self, frames: int, scope: Scope = "frame") -> None:
        """Run windows of `frames`: all-frame attention in the UNet; in the ControlNet attention stays per frame."""
        self.frames, self.scope = frames, scope
        set_window(self.unet, frames, scope)
        set_window(self.controlnet, frames, scope, all_frames=False)

    def forward(self, sample: Tensor, timestep: Tensor, hint: Tensor, appearance: Tensor) -> Tensor:
        """The prediction for latents `sample` (N, C, h, w), N = B * frames.

        `timestep` (N,); `hint` (N, Ch, h, w), or the condition (N, 3, H, W) in [0, 1] without a hint encoder;
        `appearance` (N or 1, tokens, D).
        """
        appearance = appearance.expand(len(sample), -1, -1)
        # The ControlNet of an inpainting model reads all its channels too: it is a copy of the UNet's encoder.
        down, middle = self.controlnet(
            sample, timestep, appearance, hint, conditioning_scale=self.control_scale, return_dict=False
        )
        prediction: Tensor = self.unet(
            sample, timestep, appearance, down_block_additional_residuals=down,
            mid_block_additional_residual=middle, return_dict=False,
        )[0]  # fmt: skip
        return prediction


def build_image_encoder(config: dict[str, Any]) -> CLIPVisionModel:
    """CLIP's vision tower of the given size, fresh weights."""
    return CLIPVisionModel(CLIPVisionConfig(**config))


def appearance_tokens(encoder: CLIPVisionModel, image: Tensor) -> Tensor:
    """The feature map before pooling of (B, 3, H, W) in [0, 1]: (B, 1 + (size/patch)^2, D), that is 50 tokens."""
    size = encoder.config.image_size
    x = nn.functional.interpolate(image, (size, size), mode="bilinear", antialias=False, align_corners=False)
    mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    tokens: Tensor = encoder((x - mean) / std).last_hidden_state
    return tokens
