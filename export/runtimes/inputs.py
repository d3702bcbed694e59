"""Inputs of a call into the arrays that a runtime was bound to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def fill(bound: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> None:
    """Copy `inputs` into `bound` by name. ValueError where one is missing, unknown or of another shape."""
    if inputs.keys() != bound.keys():
        raise ValueError(f"inputs are {', '.join(bound)}, not {', '.join(inputs)}")
    for name, array in inputs.items():
        if array.shape != bound[name].shape:
            raise ValueError(f"{name} is {bound[name].shape}, not {array.shape}")
        np.copyto(bound[name], array, casting="same_kind")
