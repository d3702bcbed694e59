"""Frames that see each other: all-frame attention, and normalisation over the window (arXiv 2403.16510, 3.3).

Windows travel as batches, (B * frames, C, H, W). Nothing here has weights: it changes how a plain diffusers UNet runs, as
the paper does at inference. With one frame both are the plain network; a bank lets one frame see those before it.
"""

from __future__ import annotations

from typing import Literal

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional as F

from engine.networks.bank import Bank

Scope = Literal["frame", "window"]


Rows = tuple[int, int]  # windows of a batch and frames of a window, one of them -1: whatever the batch has
ALONE: Rows = (-1, 1)


class FrameAttention:
    """Attention processor: in self-attention the tokens of all frames of a window attend to each other; cross-attention per frame.

    `causal`, for windows whose length is known: a frame attends to itself and to those before it. A `bank`, given as one of
    `cross_attention_kwargs` with one frame, lets that frame attend to the past.
    """

    def __init__(self, rows: Rows = ALONE, causal: bool = False) -> None:
        self.rows, self.causal = rows, causal

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,  # (B * frames, N, C)
        encoder_hidden_states: Tensor | None = None,  # (B * frames, M, D)
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        bank: Bank | None = None,
    ) -> Tensor:
        if attention_mask is not None or temb is not None or attn.group_norm is not None:
            raise NotImplementedError("FrameAttention serves the transformer blocks of a UNet only")
        batch, tokens, channels = hidden_states.shape
        x = hidden_states
        windows, frames = self.rows
        if encoder_hidden_states is None and self.rows != ALONE:
            x = x.reshape(windows, -1 if frames < 0 else frames * tokens, channels)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(x), attn.to_k(context), attn.to_v(context)
        seen = None
        if bank is not None and encoder_hidden_states is None:
            k, v, seen = bank.extend(k, v)
        q, k, v = (y.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for y in (q, k, v))  # (B, heads, tokens, head_dim)
        if self.causal and q.shape[2] > tokens:
            seen = torch.ones(frames, frames, dtype=torch.bool, device=q.device).tril()
            seen = seen.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)  # (frames * N, frames * N)
        out = F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).flatten(-2)
        out = attn.to_out[0](out).reshape(batch, tokens, channels)
        return out / attn.rescale_output_factor  # type: ignore[no-any-return]


class WindowNorm(nn.GroupNorm):
    """Group normalisation whose statistics pool over the frames of a window, as a 5-D tensor's would."""

    rows: Rows = ALONE

    def forward(self, x: Tensor) -> Tensor:
        if self.rows == ALONE:
            return super().forward(x)
        b, c, h, w = x.shape
        window = x.reshape(*self.rows, c, h * w).transpose(1, 2)
        return super().forward(window).transpose(1, 2).reshape(b, c, h, w)


def set_window(
    network: nn.Module, rows: Rows, scope: Scope = "frame", all_frames: bool = True, causal: bool = False
) -> None:
    """Make a UNet or ControlNet run windows; `all_frames` False keeps attention per frame (the ControlNet).

    With `scope` "window" the residual blocks' norms and the final one pool over the frames; the transformers' never do.
    """
    network.set_attn_processor(FrameAttention(rows if all_frames else ALONE, causal))  # type: ignore[operator]
    norms = [norm for m in network.modules() if isinstance(m, ResnetBlock2D) for norm in (m.norm1, m.norm2)]
    norms += [m for name, m in network.named_children() if name == "conv_norm_out"]
    for norm in norms:
        if isinstance(norm, nn.GroupNorm):
            norm.__class__ = WindowNorm  # the same weights, another forward
            norm.rows = rows if scope == "window" else ALONE  # type: ignore[assignment]
