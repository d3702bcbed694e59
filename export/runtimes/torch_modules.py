"""An avatar's graphs as torch modules that share their weights, loaded once for all that are run of it.

A body for single frames, one for windows and one with a bank are the same weights, but each runs them in its own way. So each has
a structure of its own around them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from engine.avatar import FILE as AVATAR
from engine.avatar import Avatar
from engine.networks import folder as stored
from export.graphs import Graph, graphs
from export.manifest import FILE as LIST

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Modules:
    """Graphs by name, all in one precision and on one device. A network that runs one of them keeps them all."""

    graphs: Mapping[str, Graph]
    key: tuple[str, str, str]


def opened(folder: Path, precision: str, device: torch.device) -> Modules:
    """The graphs of the avatar in `folder`: those that are in use, if some are, else read from there. InputError as folder.load."""
    digest = hashlib.sha256((folder / AVATAR).read_bytes() + (folder / LIST).read_bytes()).hexdigest()
    key = f"{folder.resolve()} {digest}", precision, str(device)
    found = _in_use().get(key)
    if found is None:
        found = _in_use()[key] = Modules(_read(folder, TYPES[precision]), key)
    return found


def forget(modules: Modules) -> None:
    """Their weights are no longer those of the folder."""
    if _in_use().get(modules.key) is modules:
        del _in_use()[modules.key]


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """All weights and statistics by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


class Typed(nn.Module):
    """A graph that computes in `dtype`, between inputs and outputs as they are. Outputs are several, and lie row by row."""

    def __init__(self, graph: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.graph, self.dtype = graph, dtype

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        said = self.graph(*(x.to(self.dtype) if x.is_floating_point() else x for x in inputs))
        several = said if isinstance(said, tuple) else (said,)
        return tuple((x.float() if x.is_floating_point() else x).contiguous() for x in several)


def _read(folder: Path, dtype: torch.dtype) -> dict[str, Graph]:
    networks = stored.load(folder)
    shared = {id(weight): weight for _, network in networks.parts() for weight in network.parameters()}
    found = {}
    for graph in graphs(Avatar.load(folder), networks):  # the next one changes how this one's networks run
        found[graph.name] = replace(graph, module=Typed(deepcopy(graph.module, dict(shared)), dtype).eval())
    for graph in found.values():
        graph.module.to(dtype)  # a weight changes where it is, for all that share it
    return found


@cache
def _in_use() -> WeakValueDictionary[tuple[str, str, str], Modules]:
    return WeakValueDictionary()
