"""Tensors of torch on a device, as the engine's arrays (engine.arrays.Home)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TorchHome:
    """On a CPU they are not NumPy's either, so that what crosses can be seen there, too."""

    device: torch.device

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Tensor:
        kind = dtype if isinstance(dtype, torch.dtype) else getattr(torch, np.dtype(dtype).name)
        return torch.empty(shape, dtype=kind, device=self.device)

    def put(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, device=self.device)

    def host(self, array: Tensor) -> np.ndarray:
        return array.cpu().numpy()  # type: ignore[no-any-return]
