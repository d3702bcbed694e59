"""torch: the networks themselves, without a graph's file between. Eager on a CPU; on an NVIDIA GPU compiled and replayed as CUDA graphs.

No GPU has run this yet: there, nothing but the choice of the provider is verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from engine import toml
from engine.avatar import FILE, Avatar
from engine.errors import InputError
from engine.networks import folder as stored
from engine.networks.folder import AvatarNetworks
from export.graphs import Graph, graphs
from export.runtimes.inputs import check
from export.seam import Fixed, Options, Source
from export.torch_home import TorchHome

PRECISIONS = ("f32", "f16", "bf16")
GRAPHS: dict[str, str] = {}  # it computes in what it is told to
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
PROVIDERS = ("captured", "compiled", "eager")
WARM_UP = 3  # calls before a capture: kernels are chosen, memory is found

Run = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Loaded:
    """An avatar's networks as they are stored, and the weights that its graphs compute with, once for all of them."""

    avatar: Avatar
    networks: AvatarNetworks
    dtype: torch.dtype
    device: torch.device
    there: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # by its id the stored one, which so keeps it

    @classmethod
    def of(cls, folder: Path, dtype: torch.dtype, device: torch.device) -> Loaded:
        """InputError where the folder is no avatar's, or its networks are not whole."""
        return cls(replace(toml.read(folder / FILE, Avatar), folder=folder), stored.load(folder), dtype, device)

    def graph(self, name: str) -> Graph:
        """One graph, in `dtype` on `device`: it shares its weights with the others, and nothing else. KeyError where there is none."""
        for graph in graphs(self.avatar, self.networks):
            if graph.name == name:
                tensors = (*graph.module.parameters(), *graph.module.buffers())
                module = deepcopy(graph.module, {id(tensor): self._moved(tensor) for tensor in tensors})
                return replace(graph, module=module.eval().requires_grad_(False))
        raise KeyError(name)

    def _moved(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self.there:
            moved = tensor.detach().to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)
            self.there[id(tensor)] = tensor, nn.Parameter(moved, False) if isinstance(tensor, nn.Parameter) else moved
        return self.there[id(tensor)][1]


class TorchNetwork:
    """A module that always reads the same tensors (engine.network.Network)."""

    def __init__(
        self, graph: Graph, inputs: Mapping[str, Tensor], fixed: Fixed, prepare: Callable[[Run], Run], home: TorchHome
    ) -> None:
        """`inputs`: those tensors, at home. `prepare` makes of one call whatever is called each time."""
        self.home = home
        shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
        self.fixed = MappingProxyType(dict(fixed(shapes)))
        self.inputs = MappingProxyType({name: shape for name, shape in shapes.items() if name not in self.fixed})
        self._given = dict(inputs)
        self._here = {name: x if x.device.type == "cpu" else _pinned(x) for name, x in inputs.items()}
        check({name: shapes[name] for name in self.fixed}, self.fixed)
        self._write(self.fixed)
        module, dtype = graph.module, next(graph.module.parameters()).dtype

        def run() -> tuple[Tensor, ...]:
            told = (x.to(dtype) if x.is_floating_point() else x for x in inputs.values())
            said = module(*told)
            several = said if isinstance(said, tuple) else (said,)
            return tuple(x.float() if x.is_floating_point() else x for x in several)

        with torch.no_grad():
            self._run = prepare(run)
            said = dict(zip(graph.outputs, self._run(), strict=True))
        self.outputs = MappingProxyType({name: tuple(tensor.shape) for name, tensor in said.items()})

    def __call__(self, **inputs: np.ndarray | Tensor) -> Mapping[str, Tensor]:
        """ValueError where an input is missing, unknown or of another shape."""
        check(self.inputs, inputs)
        self._write(inputs)
        with torch.no_grad():
            said = self._run()
        return dict(zip(self.outputs, said, strict=True))

    def _write(self, inputs: Mapping[str, np.ndarray | Tensor]) -> None:
        for name, array in inputs.items():
            if isinstance(array, Tensor):
                self._given[name].copy_(array)
                continue
            np.copyto(self._here[name].numpy(), array, casting="same_kind")
            if self._here[name] is not self._given[name]:
                self._given[name].copy_(self._here[name], non_blocking=True)


def load(source: Source, options: Options, fixed: Fixed) -> TorchNetwork:
    """A graph of the avatar in `source.folder`; its networks are loaded once for all graphs of the same options."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    how = provider(options.provider, device.type)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    avatar = options.together.setdefault("torch", {})  # one is enough, but a set may be of several
    if source.folder not in avatar:
        avatar[source.folder] = Loaded.of(source.folder, DTYPES[options.precision], device)
    graph: Graph = avatar[source.folder].graph(source.graph)
    given = {name: tensor.to(device).clone() for name, tensor in graph.of(source.batch).items()}
    if how != "eager":
        graph.module.compile(dynamic=False)
    prepare = captured if how == "captured" else lambda run: run
    return TorchNetwork(graph, given, fixed, prepare, TorchHome(device))


def _pinned(tensor: Tensor) -> Tensor:
    """Memory of the host that is copied to one of a GPU without waiting."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)


def provider(wanted: str, device: str) -> str:
    """How modules are run. InputError where that is unknown, or not for this device.

    "auto" compiles on a GPU alone: on a CPU that takes minutes.
    """
    if wanted == "auto":
        return "captured" if device == "cuda" else "eager"
    if wanted not in PROVIDERS:
        raise InputError("runtime", "torch:", " | ".join(PROVIDERS), wanted)
    if wanted == "captured" and device != "cuda":
        raise InputError("runtime", "torch:captured", "an NVIDIA GPU that torch sees", device)
    return wanted


def captured(run: Run) -> Run:
    """`run` as a CUDA graph, which reads and writes the tensors that it read and wrote now."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        said = run()

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return said

    return replay
