"""An OpenVINO model in the form that the CPU runs fastest: what never changes computed once, no detours that it takes by itself.

Every change leaves the function as it is. bench/NOTES.md has what each brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops


def fix(core: Any, model: Any, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
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
    request = core.compile_model(early, "CPU", dict(settings)).create_infer_request()
    request.infer([arrays[name_of(p.output(0))] for p in parameters])
    for i, (_, targets) in enumerate(edges):
        constant = ops.constant(request.get_output_tensor(i).data.copy())
        for target in targets:
            target.replace_source_output(constant.output(0))
    for parameter in parameters:
        model.remove_parameter(parameter)


def name_of(port: Any) -> str:
    """An input's name in the graph: where nodes that do nothing are removed, it gets theirs as well."""
    return str(port.get_node().get_friendly_name())


def rows(model: Any) -> None:
    """Normalise groups as the rows of a matrix, each by one thread.

    In bf16 the CPU takes each group for an image of its own, and starts all threads three times for each of them.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "GroupNormalization" or node.get_output_partial_shape(0).is_dynamic:
            continue
        x, scale, bias = (node.input_value(i) for i in range(3))
        shape, said = list(node.get_output_shape(0)), node.get_attributes()
        each = [1, shape[1], *(1 for _ in shape[2:])]
        row = ops.reshape(x, _sizes([shape[0], said["num_groups"], -1]), False)
        normal = ops.reshape(ops.mvn(row, _sizes([2]), True, said["epsilon"], "inside_sqrt"), _sizes(shape), False)
        scaled = ops.multiply(normal, ops.reshape(scale, _sizes(each), False))
        _replace(node, ops.add(scaled, ops.reshape(bias, _sizes(each), False)))


def direct(model: Any) -> None:
    """Let channels that move last leave the graph as they are.

    The CPU has them last already, but where a convolution has a sum fused into it, it moves them there and back before
    they leave. An operation in between that changes nothing keeps it from that.
    """
    for result in model.get_results():
        node = result.input_value(0).get_node()
        if node.get_type_name() == "Transpose" and node.get_output_element_type(0) == openvino.Type.f32:
            same = ops.maximum(node.output(0), ops.constant(np.array(-np.finfo(np.float32).max)))
            result.input(0).replace_source_output(same.output(0))


def _replace(node: Any, by: Any) -> None:
    by.set_friendly_name(node.get_friendly_name())
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(by.output(0))


def _sizes(sizes: list[int]) -> Any:
    return ops.constant(np.array(sizes, np.int64))
