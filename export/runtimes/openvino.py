"""OpenVINO on the CPU: bf16 where the processor multiplies it, float32 elsewhere; one request a graph, its tensors bound once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import openvino

from export import cpu
from export.runtime import Options
from export.runtimes.inputs import fill

PRECISIONS = ("f32", "bf16")


class OpenVINONetwork:
    """A compiled graph with its own input and output memory (engine.network.Network)."""

    def __init__(self, compiled: Any) -> None:
        self.inputs = MappingProxyType({port.get_any_name(): tuple(port.shape) for port in compiled.inputs})
        self.outputs = MappingProxyType({port.get_any_name(): tuple(port.shape) for port in compiled.outputs})
        self._request = compiled.create_infer_request()
        self._given = {port.get_any_name(): self._request.get_tensor(port).data for port in compiled.inputs}
        self._said = MappingProxyType(
            {port.get_any_name(): self._request.get_tensor(port).data for port in compiled.outputs}
        )

    def __call__(self, **inputs: np.ndarray) -> MappingProxyType[str, np.ndarray]:
        """ValueError where an input is missing, unknown or of another shape."""
        fill(self._given, inputs)
        self._request.infer()
        return self._said


def load(path: Path, options: Options) -> OpenVINONetwork:
    """Compile the graph at `path` for the CPU."""
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if cpu.has_bf16() else "f32"
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision,
    }
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    if options.cache is not None:
        settings["CACHE_DIR"] = str(options.cache)
    return OpenVINONetwork(_core().compile_model(str(path), "CPU", settings))


@cache
def _core() -> Any:
    return openvino.Core()
