"""ONNX Runtime: on the CPU in float32, on an NVIDIA GPU by its CUDA or TensorRT provider. Inputs and outputs are bound once.

On a GPU they lie in its memory, a call writes and reads them there, and what it runs is captured as a CUDA graph. No GPU has run this.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime

from engine.arrays import HOST
from engine.errors import InputError
from export.runtimes.inputs import check, fill
from export.seam import Fixed, Options, Source

PRECISIONS = ("f32", "f16")
GRAPHS = {"f16": "f16"}
PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
OPEN = {1: "frames", 2: "2*frames"}  # what export.tracing calls an open dimension, by branches
TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}


class HostMemory:
    """Arrays that the runtime reads and writes where they lie."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def bind(self, name: str, shape: tuple[int, ...], dtype: type, bind: Any) -> None:
        """Make an array and tell the runtime of it by `bind`, a binding's bind_input or bind_output."""
        array = self.arrays[name] = np.zeros(shape, dtype)
        bind(name, "cpu", 0, dtype, shape, array.ctypes.data)

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        fill({name: self.arrays[name] for name in arrays}, arrays)

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]


class DeviceMemory:
    """Arrays on a device: written by a copy to it, read by a copy from it."""

    def __init__(self, device: str) -> None:
        """`device` as the runtime calls it, "cuda"."""
        self.device = device
        self.values: dict[str, Any] = {}
        self._dtypes: dict[str, type] = {}

    def bind(self, name: str, shape: tuple[int, ...], dtype: type, bind: Any) -> None:
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, self.device, 0)
        value.update_inplace(np.zeros(shape, dtype))
        self.values[name], self._dtypes[name] = value, dtype
        bind(name, self.device, 0, dtype, shape, value.data_ptr())

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        check({name: tuple(self.values[name].shape()) for name in arrays}, arrays)
        for name, array in arrays.items():
            dtype = self._dtypes[name]
            if not np.can_cast(array.dtype, dtype, "same_kind"):
                raise TypeError(f"{name} is {np.dtype(dtype)}, not {array.dtype}")
            self.values[name].update_inplace(np.ascontiguousarray(array, dtype))

    def read(self, name: str) -> np.ndarray:
        return self.values[name].numpy()  # type: ignore[no-any-return]


class ONNXRuntimeNetwork:
    """A session with its own input and output memory (engine.network.Network)."""

    home = HOST

    def __init__(self, session: Any, fixed: Fixed, memory: HostMemory | DeviceMemory) -> None:
        shapes = {value.name: tuple(value.shape) for value in session.get_inputs()}
        self.fixed = MappingProxyType(dict(fixed(shapes)))
        self.inputs = MappingProxyType({name: shape for name, shape in shapes.items() if name not in self.fixed})
        self.outputs = MappingProxyType({value.name: tuple(value.shape) for value in session.get_outputs()})
        self._session, self._binding, self._memory = session, session.io_binding(), memory
        for values, bind in (
            (session.get_inputs(), self._binding.bind_input),
            (session.get_outputs(), self._binding.bind_output),
        ):
            for value in values:
                memory.bind(value.name, tuple(value.shape), TYPES[value.type], bind)
        memory.write(self.fixed)  # once: this runtime cannot make constants of them

    def __call__(self, **inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        """ValueError where an input is missing, unknown or of another shape."""
        check(self.inputs, inputs)
        self._memory.write(inputs)
        self._session.run_with_iobinding(self._binding)
        return {name: self._memory.read(name) for name in self.outputs}


def load(source: Source, options: Options, fixed: Fixed) -> ONNXRuntimeNetwork:
    """Open a graph with the provider that is asked for, "auto" the first of PROVIDERS that this build has.

    InputError where the provider does not start: it is never replaced by another.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for branches, name in OPEN.items():
        settings.add_free_dimension_override_by_name(name, branches * source.batch)
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    provider = chosen(options.provider, onnxruntime.get_available_providers())
    wanted = (PROVIDERS[provider], settings_of(provider, options.precision))
    session = onnxruntime.InferenceSession(str(source.file), settings, providers=[wanted])
    if (first := session.get_providers()[0]) != PROVIDERS[provider]:
        raise InputError("runtime", "onnxruntime", f"the provider {provider} to start", f"{first} instead")
    return ONNXRuntimeNetwork(session, fixed, HostMemory() if provider == "cpu" else DeviceMemory("cuda"))


def chosen(provider: str, available: list[str]) -> str:
    """A name of PROVIDERS. InputError where there is none of that name, or this build lacks it.

    "auto" never takes TensorRT: it would build for minutes at each start, as engines that it keeps itself are read unchecked.
    """
    if provider == "auto":
        return "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if provider not in PROVIDERS:
        raise InputError("runtime", "onnxruntime:", " | ".join(PROVIDERS), provider)
    if PROVIDERS[provider] not in available:
        hint = "onnxruntime-gpu in place of onnxruntime: never both"
        raise InputError("runtime", "onnxruntime", f"a build with {PROVIDERS[provider]}", ", ".join(available), hint)
    return provider


def settings_of(provider: str, precision: str) -> dict[str, str]:
    """A provider's options."""
    if provider == "cuda":
        exact = "0" if precision == "f32" else "1"
        return {"device_id": "0", "enable_cuda_graph": "1", "use_tf32": exact, "cudnn_conv_algo_search": "EXHAUSTIVE"}
    if provider == "tensorrt":  # strongly typed graphs say their precision themselves
        return {"device_id": "0", "trt_cuda_graph_enable": "1", "trt_engine_cache_enable": "0"}
    return {}
