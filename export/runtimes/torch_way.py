"""How torch runs a graph on a device: where its arrays lie, whether it is compiled, and how a run is captured to be replayed.

Everything that depends on the device is here. A GPU replays a CUDA graph; the CPU does the same by hand, so that it shows whoever
keeps an output for too long. No GPU has run this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import InputError
from engine.given import READERS
from engine.networks.tensors import Tensors

Outputs = tuple[Tensor, ...]
WARM_UPS = 3  # runs before a capture: libraries choose their kernels in the first ones


class Capture(Protocol):
    def __call__(self, run: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """What runs `run` again, and its outputs, which that overwrites. What `run` reads is to stay where it lies."""
        ...


@dataclass(frozen=True)
class Way:
    """How one graph is run."""

    home: Tensors
    compiled: bool
    capture: Capture


def way_of(graph: str, provider: str, precision: str) -> Way:
    """The way of a graph of that name. `provider`: "cuda", "cpu", or "auto", which takes a GPU where there is one; "eager" takes
    it as it is, neither compiled nor captured: what others are measured against. InputError as `device`.

    On a CPU compiling takes minutes and gains little. Graphs that read a person's pictures run once.
    """
    home = Tensors(device("auto" if provider == "eager" else provider))
    if home.device.type == "cpu" or provider == "eager" or graph in READERS:
        return Way(home, False, by_hand)
    return Way(home, True, partial(cuda_graph, exact=precision == "f32"))


def device(provider: str) -> torch.device:
    """InputError where there is none of that name, or it is not there."""
    there = torch.cuda.is_available()
    if provider == "auto":
        provider = "cuda" if there else "cpu"
    if provider not in ("cuda", "cpu"):
        raise InputError("runtime", "torch:", "cuda | cpu | eager", provider)
    if provider == "cuda" and not there:
        raise InputError("runtime", "torch", "a GPU, and a build for it", f"torch {torch.__version__} without one")
    return torch.device(provider)


def by_hand(run: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
    """A Capture for devices that know none: it runs, and copies what comes out."""
    outputs = run()

    def replay() -> None:
        for kept, new in zip(outputs, run(), strict=True):
            kept.copy_(new)

    return replay, outputs


def cuda_graph(run: Callable[[], Outputs], exact: bool) -> tuple[Callable[[], None], Outputs]:
    """A Capture on a GPU. `exact`: convolutions in float32 multiply all of its bits."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=not exact):
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Another avatar may be on air meanwhile: what its threads do is none of this capture's.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = run()
    return graph.replay, outputs
