"""OpenVINO on the CPU: bf16 where the processor multiplies it, float32 elsewhere; one request a graph, its tensors bound once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import openvino

from engine.arrays import HOST
from export.runtimes import openvino_form as form
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
        self._given = {form.name_of(port): self._request.get_tensor(port).data for port in compiled.inputs}
        said = (self._request.get_tensor(port).data for port in compiled.outputs)
        self._said = MappingProxyType(dict(zip(outputs, said, strict=True)))
        self.inputs = MappingProxyType({name: array.shape for name, array in self._given.items()})
        self.outputs = MappingProxyType({name: array.shape for name, array in self._said.items()})

    def __call__(self, **inputs: np.ndarray) -> MappingProxyType[str, np.ndarray]:
        """ValueError where an input is missing, unknown or of another shape."""
        fill(self._given, inputs)
        self._request.infer()
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
        model.reshape(settled({form.name_of(p): sizes(p.get_partial_shape()) for p in model.inputs}, source.batch))
    arrays = fixed({form.name_of(port): tuple(port.shape) for port in model.inputs})
    if arrays:
        form.fix(_core(), model, arrays, settings)
    form.direct(model)
    if options.precision != "f32":
        form.rows(model)
    return OpenVINONetwork(_core().compile_model(model, "CPU", settings), arrays, outputs)


def sizes(shape: Any) -> tuple[int | None, ...]:
    """A partial shape, None where it is open."""
    return tuple(None if d.is_dynamic else d.get_length() for d in shape)


@cache
def _core() -> Any:
    return openvino.Core()
