"""Graphs in half precision: the same pictures, and bytes nowhere but where they come in and go out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, shape_inference

from engine.avatar import Avatar
from engine.networks import folder as stored
from export.graphs import Graph, graphs
from export.tracing import _bytes_last, trace, write

NAMES = ("hint", "decoder", "encoder")


@pytest.fixture(scope="module")
def traced(exported: Path) -> Iterator[dict[str, tuple[Graph, Path]]]:
    """Graphs of pictures, in f16, beside the avatar's own."""
    networks = stored.load(exported)
    where = stored.places(networks)
    files = {
        graph.name: (graph, write(trace(graph, where, exported, "f16"), exported, "f16"))
        for graph in graphs(Avatar.load(exported), networks) if graph.name in NAMES
    }  # fmt: skip
    yield files
    for _, file in files.values():
        file.unlink()


def of_bytes(model: onnx.ModelProto) -> set[str]:
    """Names of all that is in bytes."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.UINT8}


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_cast_at_the_edges_alone(traced: dict[str, tuple[Graph, Path]], name: str) -> None:
    """TensorRT knows bytes nowhere else."""
    model = onnx.load(traced[name][1], load_external_data=False)
    inputs, outputs = ({value.name for value in values} for values in (model.graph.input, model.graph.output))
    found = of_bytes(model)
    assert len(found) == 1 and found <= inputs | outputs
    touching = [node for node in model.graph.node if found & {*node.input, *node.output}]
    assert [node.op_type for node in touching] == ["Cast"]


@pytest.mark.parametrize("name", NAMES)
def test_it_says_nearly_what_torch_says(traced: dict[str, tuple[Graph, Path]], name: str) -> None:
    graph, file = traced[name]
    with torch.no_grad():
        truth = graph.module.eval()(*graph.inputs.values())
    truth = truth if isinstance(truth, tuple) else (truth,)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    said = session.run(list(graph.outputs), {n: tensor.numpy() for n, tensor in graph.inputs.items()})
    for ours, theirs in zip(said, truth, strict=True):
        assert ours.dtype == theirs.numpy().dtype
        difference = np.linalg.norm(ours.astype(float) - theirs.numpy()) / np.linalg.norm(theirs.numpy().astype(float))
        assert difference < 0.01


def test_only_what_moves_bytes_is_passed() -> None:
    """A cast moves behind a transposition, and stays where it is already the last."""

    def graph(*nodes: onnx.NodeProto) -> onnx.GraphProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [2, 3])
        y = helper.make_tensor_value_info("y", TensorProto.UINT8, [3, 2])
        return helper.make_graph(nodes, "g", [x], [y])

    cast = helper.make_node("Cast", ["x"], ["bytes"], to=TensorProto.UINT8)
    moved = graph(cast, helper.make_node("Transpose", ["bytes"], ["y"]))
    _bytes_last(moved)
    assert [(n.op_type, *n.input, *n.output) for n in moved.node] == [
        ("Transpose", "x", "y.moved"),
        ("Cast", "y.moved", "y"),
    ]
    last = graph(
        helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("Cast", ["t"], ["y"], to=TensorProto.UINT8)
    )
    before = last.SerializeToString()
    _bytes_last(last)
    assert last.SerializeToString() == before
