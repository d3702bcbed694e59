"""OpenVINO on the CPU: bf16 where the processor multiplies it, float32 elsewhere; one request a graph, its tensors bound once.

In int8 the graphs that suit it (export.int8) are calibrated beforehand and lie in the cache; the others are as by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import openvino

from engine.arrays import HOST
from engine.errors import InputError
from export import cpu, int8
from export.cache import Key
from export.runtimes import openvino_form as form
from export.runtimes.inputs import fill, settled
from export.seam import Fixed, Options, Source

PRECISIONS = ("f32", "bf16", "int8")
GRAPHS: dict[str, str] = {}  # it lowers precision itself
FILE = "engine.xml"  # weights lie beside it
CALLS = "openvino: calls"  # in Options.together: what graphs are calibrated on


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
        self._request.infer(share_outputs=True)  # else it copies them, for nobody
        return self._said


def load(source: Source, options: Options, fixed: Fixed) -> OpenVINONetwork:
    """Compile a graph for the CPU, `fixed` inputs as constants of it. InputError where it should be in int8 and is not built."""
    model, precision = _read(source.file), options.precision
    outputs = [port.get_any_name() for port in model.outputs]
    if precision == "int8":
        precision = "bf16" if cpu.has_bf16() else "f32"
        if int8.suits(source.graph, _shapes(model)):
            model, precision = _read(_engine(source, options)), "f32"  # what is left beside int8 is little
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    if model.is_dynamic():
        model.reshape(settled(_shapes(model), source.batch))
    arrays = fixed({form.name_of(port): tuple(port.shape) for port in model.inputs})
    if arrays:
        form.fix(_core(), model, arrays, settings)
    form.direct(model)
    if precision != "f32":
        form.rows(model)
    return OpenVINONetwork(_core().compile_model(model, "CPU", settings), arrays, outputs)


def build(source: Source, options: Options, tell: Callable[[float], None]) -> Key | None:
    """A graph in int8, for any number of frames or crops. None in other precisions, and where int8 is not worth it."""
    if options.precision != "int8":
        return None
    model = _read(source.file)
    if not int8.suits(source.graph, _shapes(model)):
        return None
    if (calls := options.together.get(CALLS)) is None:
        calls = options.together[CALLS] = int8.calls(source.folder, options.threads)
    tell(0.5)
    quantized = int8.quantized(model, calls[source.graph])
    key = _key(source)
    options.cache.build(key, lambda folder: openvino.save_model(quantized, folder / FILE, compress_to_fp16=False))
    return key


def _engine(source: Source, options: Options) -> Path:
    folder = options.cache.find(_key(source))
    if folder is None:
        again = "liveanchor export --runtime openvino --precision int8"
        raise InputError(str(source.file), "int8 engine", f"one in {options.cache.root}", "none", again)
    return folder / FILE


def _key(source: Source) -> Key:
    device = " ".join(("cpu", *cpu.features()))
    return Key(source.graph, source.digest, "openvino", openvino.__version__, "int8", device, int8.PROFILE)


def _read(file: Path) -> Any:
    return _core().read_model(str(file))


def _shapes(model: Any) -> dict[str, tuple[int | None, ...]]:
    return {form.name_of(port): sizes(port.get_partial_shape()) for port in model.inputs}


def sizes(shape: Any) -> tuple[int | None, ...]:
    """A partial shape, None where it is open."""
    return tuple(None if d.is_dynamic else d.get_length() for d in shape)


@cache
def _core() -> Any:
    return openvino.Core()
