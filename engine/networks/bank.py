"""Keys and values of past frames: what a UNet's self-attention remembers, so that a new frame sees a past that is not computed again.

Each layer's keys were computed with that layer's own past. So a stream of single frames with a bank of the last n equals the
whole clip at once under attention in which frame i sees frames i - n to i, at any depth. A window of n + 1 frames under causal
attention is the same for the first n + 1 frames; later, layers behind the first see further back through the bank.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Bank:
    """For one call of a UNet on one frame: the past that each self-attention sees, and what the frame adds to it.

    Layers with keys of one shape lie in one tensor, in the order in which the UNet calls them. `past` holds tensors
    (layers, 2, B, slots, tokens, C), keys before values, whose first `filled` (1,) slots are seen; without `past` the frame
    is alone.
    """

    def __init__(self, past: Iterable[Tensor] = (), filled: Tensor | None = None) -> None:
        self._past = {x.shape[-2:]: x for x in past}
        self._filled = filled
        self._new: dict[torch.Size, list[Tensor]] = {}

    @property
    def new(self) -> list[Tensor]:
        """The frame's own keys and values, (layers, 2, B, tokens, C), in the order of the first layer of each shape."""
        return [torch.stack(layers) for layers in self._new.values()]

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The next layer's keys and values (B, N, C) with the past behind them, and which of them are seen (N, (1 + slots) * N)."""
        layers = self._new.setdefault(k.shape[1:], [])
        own = torch.stack([k, v])  # (2, B, N, C)
        layers.append(own)
        if not self._past or self._filled is None:
            return k, v, None
        past = self._past[k.shape[1:]][len(layers) - 1]  # (2, B, slots, N, C)
        slots, tokens = past.shape[2:4]
        k, v = torch.cat([own, past.flatten(2, 3)], dim=2).unbind()
        seen = torch.arange(1 + slots, device=k.device) <= self._filled
        return k, v, seen[:, None].expand(-1, tokens).flatten().expand(tokens, -1)
