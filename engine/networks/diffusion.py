"""The structure-guided diffusion model (arXiv 2403.16510, 3.2): UNet, pose ControlNet, hint encoder; and the appearance encoder.

It predicts from noisy latents, a timestep per frame, hints and appearance tokens. It knows nothing of schedules or pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from engine.networks.attention import Scope, set_window
from engine.networks.bank import Bank
from engine.networks.configs import DiffusionConfig
from engine.networks.hint import HintEncoder

Residuals = tuple[tuple[Tensor, ...], Tensor]  # of the blocks on the way down, and of the middle one

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
        """Fresh weights; the ControlNet is copied from the UNet's encoder, its zero convolutions are zero.

        Transformer blocks begin as the identity, so weights of a network that had fewer of them go on as they were.
        """
        unet = UNet2DConditionModel(**config.unet)
        for block in unet.modules():
            if isinstance(block, Transformer2DModel):
                nn.init.zeros_(block.proj_out.weight)
                nn.init.zeros_(block.proj_out.bias)  # type: ignore[arg-type]
        embedding: dict[str, Any] = {}
        hint = None
        if config.hint is not None:
            hint = HintEncoder(**config.hint)
            channels = hint.config.channels[-1]
            embedding = {"conditioning_channels": channels, "conditioning_embedding_out_channels": (channels,)}
        return cls(unet, ControlNetModel.from_unet(unet, **embedding), hint)

    def set_window(
        self, frames: int | None, scope: Scope = "frame", causal: bool = False, windows: int | None = None
    ) -> None:
        """Run windows of `frames`: all-frame attention in the UNet; in the ControlNet attention stays per frame.

        `frames` None: of any length, `windows` in a batch. `causal`: frames attend to themselves and to earlier ones only.
        """
        if (frames is None) == (windows is None):
            raise ValueError("windows have either a length or a number")
        self.frames = frames
        rows = (windows or -1, frames or -1)
        set_window(self.unet, rows, scope, causal=causal)
        set_window(self.controlnet, rows, scope, all_frames=False)

    def forward(
        self, sample: Tensor, timestep: Tensor, hint: Tensor, appearance: Tensor, bank: Bank | None = None
    ) -> Tensor:
        """The prediction for latents `sample` (N, C, h, w), N = B * frames.

        `timestep` (N,); `hint` (N, Ch, h, w), or the condition (N, 3, H, W) in [0, 1] without a hint encoder;
        `appearance` (N or 1, tokens, D). With a `bank`, for one frame at a time, the UNet attends to the past in it, too, and
        leaves the frame's own keys and values there.
        """
        return self.predict(sample, timestep, appearance, self.residuals(sample, timestep, hint, appearance), bank)

    def residuals(self, sample: Tensor, timestep: Tensor, hint: Tensor, appearance: Tensor) -> Residuals:
        """What the ControlNet adds to the UNet's features."""
        # In an inpainting model the ControlNet reads all channels where it is a copy of the UNet's encoder, and the noisy
        # latents alone where it comes from a base model (Make-Your-Anchor's heads).
        seen = sample[:, : self.controlnet.config.in_channels]
        down, middle = self.controlnet(
            seen, timestep, appearance.expand(sample.shape[0], -1, -1), hint, conditioning_scale=self.control_scale,
            return_dict=False,
        )  # fmt: skip
        return down, middle

    def predict(
        self, sample: Tensor, timestep: Tensor, appearance: Tensor, residuals: Residuals, bank: Bank | None = None
    ) -> Tensor:
        """The UNet's part of `forward`."""
        if bank is not None and self.frames != 1:
            raise ValueError(f"a bank serves one frame at a time, not windows of {self.frames}")
        down, middle = residuals
        prediction: Tensor = self.unet(
            sample, timestep, appearance.expand(sample.shape[0], -1, -1), down_block_additional_residuals=down,
            mid_block_additional_residual=middle, return_dict=False,
            cross_attention_kwargs=None if bank is None else {"bank": bank},
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
