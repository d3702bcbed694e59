"""Where arrays live: in NumPy's memory, or on the device that networks compute on, whose arrays it knows by what NumPy's can do as well.

What networks are told and say, latents, keys and values stay there from step to step and from frame to frame. Pictures of the mesh
go there, finished ones come back.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

Array = Any  # np.ndarray, or a device's: sliced, assigned to and computed with like one


class Home(Protocol):
    """Makes arrays, and takes them there and back."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """`dtype`: NumPy's, or that of an array that lives here."""
        ...

    def put(self, array: np.ndarray) -> Array:
        """An array of the host here; whether it is copied is not said."""
        ...

    def host(self, array: Array) -> np.ndarray:
        """An array that lives here for the host; whether it is copied is not said."""
        ...


class Host:
    """NumPy's memory: nothing is ever copied."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.empty(shape, dtype)

    def put(self, array: np.ndarray) -> np.ndarray:
        return array

    def host(self, array: np.ndarray) -> np.ndarray:
        return array


HOST = Host()


def zeros_like(array: Array, shape: tuple[int, ...]) -> Array:
    """Float32 zeros of `shape` where `array` lives."""
    if isinstance(array, np.ndarray):
        return np.zeros(shape, np.float32)
    return array.new_zeros(shape).float()


def copy(array: Array) -> Array:
    """A copy of `array`, of its own memory."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()


def like(array: Array, values: np.ndarray) -> Array:
    """`values` where `array` lives."""
    return values if isinstance(array, np.ndarray) else array.new_tensor(values)


def stacked(home: Home, arrays: list[Array]) -> Array:
    """Float32 arrays of one shape as one (n, ...)."""
    whole = home.empty((len(arrays), *arrays[0].shape), np.float32)
    for i, array in enumerate(arrays):
        whole[i] = array
    return whole
