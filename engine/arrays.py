"""Where arrays lie from one network to the next: in this machine's memory, or where the networks compute.

Indices, operators and `[...] =` are the same for NumPy's arrays and for other libraries' tensors; here is what is not. Stages allocate
at the home of their networks, so that on a GPU a picture goes up, a picture comes down, and nothing between them crosses the bus.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Array = Any  # np.ndarray, or a tensor of whatever a network computes with


class Home(Protocol):
    """The memory of a network's arrays."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A new array here, of whatever values. `dtype`: NumPy's, or that of an array that lies here."""
        ...

    def put(self, array: Array, out: Array = None) -> Array:
        """`array`, which lies in host memory or here already, here: in `out`, if that is given."""
        ...

    def host(self, array: Array, out: np.ndarray | None = None) -> np.ndarray:
        """`array`, which lies here or in host memory already, there: in `out`, if that is given, else perhaps as it lies."""
        ...


class Host:
    """This machine's memory: nothing has to be moved."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def put(self, array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            return array
        np.copyto(out, array)
        return out

    host = put


HOST = Host()


def zeros_like(array: Array, shape: tuple[int, ...]) -> Array:
    """Float32 zeros of `shape` where `array` lies."""
    if isinstance(array, np.ndarray):
        return np.zeros(shape, np.float32)
    return array.new_zeros(shape).float()


def copy(array: Array) -> Array:
    """A copy of `array`, of its own memory."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()


def gather(array: Array, rows: Sequence[int], out: Array) -> Array:
    """`out`, filled with these rows of `array`: one by one, as a list of them would have to be moved to where they lie."""
    for i, row in enumerate(rows):
        out[i] = array[row]
    return out


def float32(array: Array) -> Array:
    """`array` itself where it is float32, else a copy that is."""
    return array.astype(np.float32, copy=False) if isinstance(array, np.ndarray) else array.float()


def column(values: np.ndarray, like: Array) -> Array:
    """Per-frame coefficients (n,) or () in the kind and rank of `like`: (n, 1, ..., 1) float32, or one number."""
    each = np.asarray(values, np.float32)
    each = each.reshape(each.shape + (1,) * (like.ndim - 1) * each.ndim)
    if isinstance(like, np.ndarray):
        return each
    # A number goes along with a kernel's arguments; an array would have to be moved.
    return like.new_tensor(each.tolist(), dtype=float32(like).dtype) if each.ndim else each.item()
