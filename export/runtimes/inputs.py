"""Inputs of a graph: open shapes settled when it is loaded, and a call's arrays copied into those that a runtime was bound to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def fill(bound: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> None:
    """Copy `inputs` into `bound` by name. ValueError where one is missing, unknown or of another shape."""
    if inputs.keys() != bound.keys():
        raise ValueError(f"inputs are {', '.join(bound)}, not {', '.join(inputs)}")
    for name, array in inputs.items():
        check(name, array, bound[name].shape, bound[name].dtype)
        np.copyto(bound[name], array, casting="same_kind")


def check(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """ValueError unless the array has that shape, TypeError where it would have to be rounded to that type."""
    if array.shape != shape:
        raise ValueError(f"{name} is {shape}, not {array.shape}")
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise TypeError(f"{name} is {dtype}, not {array.dtype}")


def settled(shapes: Mapping[str, tuple[int | None, ...]], frames: int) -> dict[str, list[int]]:
    """Shapes whose open dimension (None) counts frames or crops, for `frames` of them: as many for each as there are appearances."""
    branches = next((shape[0] for name, shape in shapes.items() if name == "appearance"), 1) or 1
    return {name: [branches * frames if size is None else size for size in shape] for name, shape in shapes.items()}
