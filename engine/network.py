"""The seam between the engine and whatever executes a network: named arrays in, named arrays out, static shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from engine.arrays import Array, Home


class Network(Protocol):
    """A loaded graph.

    Arrays that it is given lie at its `home` or in host memory, those that it gives at its home. They are valid until the next
    call: copy what must outlive it. Not thread-safe: one caller at a time.
    `fixed` inputs were given when it was loaded: a call does not give them, and `inputs` leaves them out.
    """

    home: Home
    fixed: Mapping[str, np.ndarray]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]

    def __call__(self, **inputs: Array) -> Mapping[str, Array]: ...


def hosted(network: Network, **inputs: Array) -> dict[str, np.ndarray]:
    """What a network says, in host memory: for those who do not go on at its home."""
    return {name: network.home.host(array) for name, array in network(**inputs).items()}
