"""Inputs of a graph: open shapes settled when it is loaded, and a call's arrays copied into those that a runtime was bound to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.arrays import Array


def fill(bound: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> None:
    """Copy `inputs` into `bound` by name. ValueError where one is missing, unknown or of another shape."""
    check({name: array.shape for name, array in bound.items()}, inputs)
    for name, array in inputs.items():
        np.copyto(bound[name], array, casting="same_kind")


def check(shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, Array]) -> None:
    """ValueError where one of `inputs` is missing, unknown or of another shape."""
    if inputs.keys() != shapes.keys():
        raise ValueError(f"inputs are {', '.join(shapes)}, not {', '.join(inputs)}")
    for name, array in inputs.items():
        if tuple(array.shape) != shapes[name]:
            raise ValueError(f"{name} is {shapes[name]}, not {tuple(array.shape)}")


def settled(shapes: Mapping[str, tuple[int | None, ...]], frames: int) -> dict[str, list[int]]:
    """Shapes whose open dimension (None) counts frames or crops, for `frames` of them: as many for each as there are appearances."""
    branches = next((shape[0] for name, shape in shapes.items() if name == "appearance"), 1) or 1
    return {name: [branches * frames if size is None else size for size in shape] for name, shape in shapes.items()}
