"""In what arithmetic networks learn: bfloat16 where the machine multiplies it, float32 where it would be emulated, which is slower."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "f32", "bf16", "fp16"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(able for name, able in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def settled(precision: Precision, device: torch.device) -> Precision:
    """`precision`, and for "auto" the faster one of bf16 and f32."""
    if precision == "auto":
        return "bf16" if multiplies_bf16(device) else "f32"
    return precision


def mixed(precision: Precision, device: torch.device) -> torch.autocast:
    """The context in which networks on `device` compute in `precision`, weights staying float32."""
    chosen = settled(precision, device)
    return torch.autocast(device.type, DTYPES[chosen], enabled=chosen != "f32")
