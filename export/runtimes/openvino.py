"""OpenVINO on the CPU: bf16 where the processor multiplies it, float32 elsewhere; one request a graph, its tensors bound once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops

from engine.arrays import HOST
from export.runtimes.inputs import fill, settled
from export.seam import Fixed, Options, Source

PRECISIONS = ("f32", "bf16")
GRAPHS: dict[str, str] = {}  # it lowers precision itself


class OpenVINONetwork:
    """A compiled graph with its own input and output memory (engine.network.Network)."""

    home = HOST

    def __init__(self, compiled: Any, fixed: Mapping[str, np.ndarray], outputs: Sequence[str]) -> None:
        """`outputs`: their names, in order."""
        self.fixed = MappingProxyType(dict(fixed))
        self._request = compiled.create_infer_request()
        self._given = {name_of(port): self._request.get_tensor(port).data for port in compiled.inputs}
        said = (self._request.get_tensor(port).data for port in compiled.outputs)
        self._said = MappingProxyType(dict(zip(outputs, said, strict=True)))
        self.inputs = MappingProxyType({name: array.shape for name, array in self._given.items()})
        self.outputs = MappingProxyType({name: array.shape for name, array in self._said.items()})

    def __call__(self, **inputs: np.ndarray) -> MappingProxyType[str, np.ndarray]:
        """ValueError where an input is missing, unknown or of another shape."""
        fill(self._given, inputs)
        self._request.infer(share_outputs=True)  # else it copies them, for nobody
        return self._said


def load(source: Source, options: Options, fixed: Fixed) -> OpenVINONetwork:
    """Compile a graph for the CPU, `fixed` inputs as constants of it."""
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": options.precision,
    }
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    model = _core().read_model(str(source.file))
    outputs = [port.get_any_name() for port in model.outputs]
    if model.is_dynamic():
        model.reshape(settled({name_of(p): sizes(p.get_partial_shape()) for p in model.inputs}, source.batch))
    arrays = fixed({name_of(port): tuple(port.shape) for port in model.inputs})
    if arrays:
        _fix(model, arrays, settings)
    return OpenVINONetwork(_core().compile_model(model, "CPU", settings), arrays, outputs)


def name_of(port: Any) -> str:
    """An input's name in the graph: where nodes that do nothing are removed, it gets theirs as well."""
    return str(port.get_node().get_friendly_name())


def _fix(model: Any, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
    """Compute what depends on the inputs `arrays` alone, and put the results in its place.

    The CPU would do so by itself for inputs that are constants, but reuses their memory: the second call would be wrong.
    """
    parameters = [p for p in model.get_parameters() if name_of(p.output(0)) in arrays]
    drawn = {parameter.get_name() for parameter in parameters}  # nodes that depend on these inputs and no others,
    known = set(drawn)  # and those with the ones that depend on none
    for node in model.get_ordered_ops():
        names = {value.get_source_output().get_node().get_name() for value in node.inputs()}
        kind = node.get_type_name()
        if kind == "Constant" or (kind != "Result" and names and known >= names):
            known.add(node.get_name())
            if drawn & names:
                drawn.add(node.get_name())
    edges = [
        (output, targets)
        for node in model.get_ordered_ops() if node.get_name() in drawn
        for output in node.outputs()
        if (targets := [t for t in output.get_target_inputs() if t.get_node().get_name() not in drawn])
    ]  # fmt: skip
    early = openvino.Model([ops.result(output) for output, _ in edges], parameters)
    request = _core().compile_model(early, "CPU", dict(settings)).create_infer_request()
    request.infer([arrays[name_of(p.output(0))] for p in parameters])
    for i, (_, targets) in enumerate(edges):
        constant = ops.constant(request.get_output_tensor(i).data.copy())
        for target in targets:
            target.replace_source_output(constant.output(0))
    for parameter in parameters:
        model.remove_parameter(parameter)


def sizes(shape: Any) -> tuple[int | None, ...]:
    """A partial shape, None where it is open."""
    return tuple(None if d.is_dynamic else d.get_length() for d in shape)


@cache
def _core() -> Any:
    return openvino.Core()
