"""Torch's tensors as arrays of the engine: the home of networks that torch runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

TYPES = {
    np.dtype(name): getattr(torch, name)
    for name in ("float32", "float16", "float64", "uint8", "int32", "int64")
}  # fmt: skip


@dataclass(frozen=True)
class Tensors:
    """A device's memory (engine.arrays.Home). Also on the CPU tensors are apart from NumPy's arrays, so that it stands in for a GPU."""

    device: torch.device

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Tensor:
        return torch.empty(shape, dtype=type_of(dtype), device=self.device)

    def put(self, array: np.ndarray | Tensor, out: Tensor | None = None) -> Tensor:
        if isinstance(array, Tensor):
            return array if out is None else out.copy_(array)
        out = self.empty(array.shape, array.dtype) if out is None else out
        # torch warns of tensors that share memory which may not be written to, though this one is only read
        return out.copy_(torch.from_numpy(array if array.flags.writeable else array.copy()))

    def host(self, array: np.ndarray | Tensor, out: np.ndarray | None = None) -> np.ndarray:
        given = array.numpy(force=True) if isinstance(array, Tensor) else array
        if out is None:
            return given
        np.copyto(out, given)
        return out


def type_of(dtype: Any) -> torch.dtype:
    """Torch's name for NumPy's type, or for its own. TypeError where it has none."""
    if isinstance(dtype, torch.dtype):
        return dtype
    try:
        found: torch.dtype = TYPES[np.dtype(dtype)]
    except KeyError:
        raise TypeError(f"no tensor holds {dtype}") from None
    return found
