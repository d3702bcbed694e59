"""Graphs to ONNX files whose weights stay where they are: every initializer points into the safetensors it came from.

A weight lies there in half precision; a graph that computes in float32 casts it, which every runtime folds when it loads. So
weights exist once, a graph is small, and no weight is folded with others into a tensor that no file holds.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from engine.errors import InputError
from engine.networks.folder import Place, spans
from export.graphs import Graph
from export.manifest import file_of

OPSET = 23
LARGEST = 63  # of a traced batch: diffusers' upsampling takes another way from 64 on, with the same result
INLINE = 64 * 1024  # bytes: the largest constant that no file holds (shapes, frequencies of a timestep)
TYPES = {"F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16, "F32": TensorProto.FLOAT}
MOVES = ("Transpose", "Reshape")
PRECISIONS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Traced:
    """An ONNX graph and what it refers to."""

    name: str
    model: onnx.ModelProto
    weights: tuple[str, ...]  # files below the avatar's folder
    nodes: dict[str, int]  # how many of each kind


def trace(
    graph: Graph, places: Mapping[int, Place], folder: Path, precision: str = "f32", opset: int = OPSET
) -> Traced:
    """`graph` as ONNX, to be written into `folder`; `places`: where its weights lie below that, by the tensor's id().

    In half precision its inputs and outputs stay float32, and everything between them is in the type of `precision`.
    """
    weights = {name: places[id(tensor)] for name, tensor in _named(graph.module).items() if id(tensor) in places}
    module = graph.module
    if precision != "f32":
        module = In(graph.module, PRECISIONS[precision])
        weights = {f"network.{name}": place for name, place in weights.items()}
    program = _export(replace(graph, module=module), opset)
    weights = {name: place for name, place in weights.items() if name in program.model.graph.initializers}
    model = _optimised(program, set(weights))
    _point(model, weights, folder)
    if precision != "f32":
        _bytes_last(model.graph)
    model.graph.name = graph.name
    _strip(model)
    census = Counter(node.op_type for node in model.graph.node)
    return Traced(graph.name, model, tuple(sorted({place.file for place in weights.values()})), dict(census))


class In(nn.Module):
    """A copy of a network that computes in `dtype`, between inputs and outputs as they were."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = deepcopy(network).to(dtype)
        self.dtype = dtype

    def forward(self, *inputs: torch.Tensor) -> Any:
        said = self.network(*(x if x.dtype == torch.int64 else x.to(self.dtype) for x in inputs))  # bytes are exact
        several = said if isinstance(said, tuple) else (said,)
        outer = tuple(x.float() if x.is_floating_point() else x for x in several)
        return outer if isinstance(said, tuple) else outer[0]


def write(traced: Traced, folder: Path, precision: str = "f32") -> Path:
    """Write the graph into `folder` at once or not at all, checked as the runtimes will see it."""
    file, half = folder / file_of(traced.name, precision), folder / f".{traced.name}.part.onnx"
    try:
        onnx.save(traced.model, half)
        onnx.checker.check_model(str(half), full_check=True)
        half.replace(file)
    finally:
        half.unlink(missing_ok=True)
    return file


def _export(graph: Graph, opset: int) -> torch.onnx.ONNXProgram:
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # it speaks of torchvision
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module.eval(), tuple(graph.inputs.values()), dynamo=True, opset_version=opset, optimize=False,
                input_names=list(graph.inputs), output_names=list(graph.outputs), dynamic_shapes=_open(graph), verbose=False,
            )  # fmt: skip
    finally:
        quiet.setLevel(level)
    assert program is not None
    return program


def _open(graph: Graph) -> tuple[Any, ...] | None:
    """Which dimensions of its inputs are open: each a multiple of the frames of a window."""
    if not graph.open:
        return None
    each = max(len(graph.inputs[name]) for name in graph.open) // graph.frames  # branches
    frames = torch.export.Dim("frames", min=2, max=LARGEST // each)  # a graph of more runs one, too
    each_input = tuple({0: each * frames} if name in graph.open else {} for name in graph.inputs)
    return (each_input,) if isinstance(graph.module, In) else each_input  # it takes them as one


def _named(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _optimised(program: torch.onnx.ONNXProgram, weights: set[str]) -> onnx.ModelProto:
    """Constants folded and unused nodes removed, with the weights passed in from outside so that they are left alone."""
    import onnx_ir
    from onnxscript import optimizer

    model = program.model
    for name in sorted(weights):  # in an order: the same networks give the same file
        value = model.graph.initializers.pop(name)
        value.const_value = None
        model.graph.inputs.append(value)
    optimizer.optimize_ir(model)
    return onnx_ir.to_proto(model)


def _point(model: onnx.ModelProto, weights: Mapping[str, Place], folder: Path) -> None:
    """Replace the graph inputs named in `weights` by initializers that lie in files."""
    graph = model.graph
    files = {place.file: spans(folder / place.file) for place in weights.values()}
    kept, casts = [], []
    for value in graph.input:
        if value.name not in weights:
            kept.append(value)
            continue
        place = weights[value.name]
        dtype, shape, offset, length = files[place.file][place.key]
        wanted = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        if shape != wanted:
            raise InputError(str(folder / place.file), place.key, f"shape {wanted}", f"shape {shape}")
        tensor = graph.initializer.add()
        tensor.name, tensor.data_type = value.name, TYPES[dtype]
        computed = value.type.tensor_type.elem_type
        tensor.dims.extend(shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, said in (("location", place.file), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=said)
        if TYPES[dtype] != computed:
            tensor.name = f"{value.name}.stored"
            casts.append(helper.make_node("Cast", [tensor.name], [value.name], to=computed))
    del graph.input[:]
    graph.input.extend(kept)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    for constant in graph.initializer:
        if constant.data_location != TensorProto.EXTERNAL and constant.ByteSize() > INLINE:
            raise InputError(model.graph.name, constant.name, "a weight of some file", "a large constant of none")


def _bytes_last(graph: onnx.GraphProto) -> None:
    """Let nodes that only move a picture move what it is computed in: TensorRT knows bytes at a graph's edge alone."""
    made = {name: node for node in graph.node for name in node.output}
    for picture in graph.output:
        last = cast = made[picture.name]
        while cast.op_type in MOVES:
            cast = made[cast.input[0]]
        if last is cast or cast.op_type != "Cast" or picture.type.tensor_type.elem_type != TensorProto.UINT8:
            continue
        for node in graph.node:
            node.input[:] = [cast.input[0] if name == cast.output[0] else name for name in node.input]
        graph.node.remove(cast)
        last.output[0] = f"{picture.name}.moved"
        graph.node.append(helper.make_node("Cast", [last.output[0]], [picture.name], to=TensorProto.UINT8))


def _strip(model: onnx.ModelProto) -> None:
    """Take out what only the tracer needs: source lines, names of this machine's files, shapes between the nodes."""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    for i, node in enumerate(model.graph.node):
        node.doc_string = ""
        node.name = f"{node.op_type}_{i}"
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
