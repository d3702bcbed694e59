"""ONNX Runtime on the CPU, float32: inputs and outputs bound once, and no threads that spin while they wait."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime

from export.runtimes.inputs import fill
from export.seam import Fixed, Options, Source

PRECISIONS = ("f32",)
GRAPHS: dict[str, str] = {}
OPEN = {1: "frames", 2: "2*frames"}  # what export.tracing calls an open dimension, by branches
TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}


class ONNXRuntimeNetwork:
    """A session with its own input and output memory (engine.network.Network)."""

    def __init__(self, session: Any, fixed: Fixed) -> None:
        shapes = {value.name: tuple(value.shape) for value in session.get_inputs()}
        self.fixed = MappingProxyType(dict(fixed(shapes)))
        self.inputs = MappingProxyType({name: shape for name, shape in shapes.items() if name not in self.fixed})
        self.outputs = MappingProxyType({value.name: tuple(value.shape) for value in session.get_outputs()})
        self._session, self._binding = session, session.io_binding()
        self._given = {value.name: np.zeros(value.shape, TYPES[value.type]) for value in session.get_inputs()}
        said = {value.name: np.zeros(value.shape, TYPES[value.type]) for value in session.get_outputs()}
        self._said = MappingProxyType(said)
        for bind, arrays in ((self._binding.bind_input, self._given), (self._binding.bind_output, said)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        # Written once: this runtime cannot make constants of them. Their memory stays bound, so it must stay.
        self._written = {name: self._given.pop(name) for name in self.fixed}
        fill(self._written, self.fixed)

    def __call__(self, **inputs: np.ndarray) -> MappingProxyType[str, np.ndarray]:
        """ValueError where an input is missing, unknown or of another shape."""
        fill(self._given, inputs)
        self._session.run_with_iobinding(self._binding)
        return self._said


def load(source: Source, options: Options, fixed: Fixed) -> ONNXRuntimeNetwork:
    """Open a graph on the CPU, `fixed` inputs written once."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for branches, name in OPEN.items():
        settings.add_free_dimension_override_by_name(name, branches * source.batch)
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(str(source.file), settings, providers=["CPUExecutionProvider"])
    return ONNXRuntimeNetwork(session, fixed)
