"""Torch: eager on a CPU; on a GPU compiled for it and captured as a CUDA graph, arrays staying there between the networks.

It reads an avatar's networks, not its ONNX files. An avatar of the same configuration can be loaded into what runs already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from engine.errors import InputError
from engine.networks.tensors import type_of
from export.graphs import Graph
from export.runtimes.torch_modules import Modules, forget, opened, tensors
from export.runtimes.torch_way import Outputs, Way, way_of
from export.seam import Fixed, Options, Shapes, Source

PRECISIONS = ("f32", "f16", "bf16")
GRAPHS: dict[str, str] = {}  # it makes other precisions of the weights itself


class TorchNetwork:
    """A graph with its own input and output memory (engine.network.Network)."""

    def __init__(self, modules: Modules, source: Source, precision: str, way: Way, fixed: Fixed) -> None:
        self.home, self.source, self.precision, self.modules = way.home, source, precision, modules
        graph = self.graph
        graph.module.to(way.home.device)
        given = {name: way.home.put(example.numpy()) for name, example in graph.of(source.batch).items()}
        self._given = given
        constants = fixed(self.shapes())
        self.check(constants)
        self.fix(constants)
        self.inputs = MappingProxyType({name: s for name, s in self.shapes().items() if name not in self.fixed})
        compute = torch.compile(graph.module, dynamic=False) if way.compiled else graph.module

        @torch.no_grad()
        def run() -> Outputs:  # it does not know the network: who drops that has its memory back at once
            said: Outputs = compute(*given.values())
            return said

        self._replay, outputs = way.capture(run)
        self._said = MappingProxyType(dict(zip(graph.outputs, outputs, strict=True)))
        self.outputs = MappingProxyType({name: tuple(said.shape) for name, said in self._said.items()})

    @property
    def graph(self) -> Graph:
        return self.modules.graphs[self.source.graph]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all inputs, fixed ones too."""
        return {name: tuple(array.shape) for name, array in self._given.items()}

    def __call__(self, **inputs: np.ndarray | Tensor) -> Mapping[str, Tensor]:
        """ValueError where an input is missing, unknown or of another shape, TypeError where it would have to be rounded."""
        if inputs.keys() != self.inputs.keys():
            raise ValueError(f"inputs are {', '.join(self.inputs)}, not {', '.join(inputs)}")
        self.check(inputs)
        for name, array in inputs.items():
            self.home.put(array, self._given[name])
        self._replay()
        return self._said

    def check(self, arrays: Mapping[str, np.ndarray | Tensor]) -> None:
        """ValueError and TypeError as from a call."""
        for name, array in arrays.items():
            bound = self._given[name]
            if array.shape != bound.shape:
                raise ValueError(f"{name} is {tuple(bound.shape)}, not {tuple(array.shape)}")
            if not torch.can_cast(type_of(array.dtype), bound.dtype):
                raise TypeError(f"{name} is {bound.dtype}, not {array.dtype}")

    def fix(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the inputs that never change."""
        for name, array in arrays.items():
            self.home.put(array, self._given[name])
        self.fixed = MappingProxyType(dict(arrays))


def load(source: Source, options: Options, fixed: Fixed) -> TorchNetwork:
    """One graph of the avatar's networks, `fixed` inputs written once. `options.threads` are the whole process's: torch has no others."""
    way = way_of(source.graph, options.provider, options.precision)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    modules = opened(source.folder, options.precision, way.home.device)
    return TorchNetwork(modules, source, options.precision, way, fixed)


def refit(
    networks: Mapping[str, TorchNetwork],
    sources: Mapping[str, Source],
    fixed: Callable[[str, Shapes], Mapping[str, np.ndarray]] = lambda graph, shapes: {},
) -> None:
    """Load another avatar of the same configuration into networks that are there: what was compiled and captured stays as it is.

    All by name, `fixed` as export.runtime.load's. Networks of one avatar share weights: those that are left out are no longer
    anybody's. InputError where the other avatar differs by more than its weights; then nothing has changed.
    """
    folder = next(iter(sources.values())).folder
    others = opened(folder, next(iter(networks.values())).precision, torch.device("cpu"))
    constants = {name: fixed(name, network.shapes()) for name, network in networks.items()}
    for name, network in networks.items():
        _compare(network, sources[name], others.graphs.get(sources[name].graph), constants[name])
    for name, network in networks.items():
        forget(network.modules)
        theirs = tensors(others.graphs[sources[name].graph].module)
        with torch.no_grad():
            for key, tensor in tensors(network.graph.module).items():
                tensor.copy_(theirs[key])
        network.fix(constants[name])
        network.source = sources[name]


def _compare(network: TorchNetwork, source: Source, other: Graph | None, constants: Mapping[str, np.ndarray]) -> None:
    """InputError where a graph is another than that of `network`, but for its weights."""
    where = str(source.folder)
    if other is None:
        raise InputError(where, "graph", source.graph, "no such graph")
    own, theirs = ({key: tuple(x.shape) for key, x in tensors(g.module).items()} for g in (network.graph, other))
    for key in sorted(own.keys() | theirs.keys()):
        if own.get(key) != theirs.get(key):
            expected, got = (f"shape {shapes[key]}" if key in shapes else "no such weight" for shapes in (own, theirs))
            raise InputError(where, key.removeprefix("graph."), expected, got)
    if (source.structure, source.batch) != (network.source.structure, network.source.batch):
        raise InputError(str(source.file), "graph", f"that of {network.source.folder.name}, but for weights", "another")
    if constants.keys() != network.fixed.keys():
        names = (", ".join(arrays) or "none" for arrays in (network.fixed, constants))
        raise InputError(where, "inputs that never change", *names)
    network.check(constants)
