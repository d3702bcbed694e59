"""TensorRT's bindings, played by ONNX Runtime on the processor: what the real ones refuse is refused, and what is run is computed.

    trt = FakeTensorRT("10.16.1.11")  # or "11.4.0.106"; passed where the module `tensorrt` is expected

Inputs are read from raw addresses and outputs written to raw addresses. Every public name here is one of the real bindings'
(tests/test_tensorrt_names.py); what the tests ask of the fake itself starts with an underscore.
"""

from __future__ import annotations

import ctypes
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

ALIGNED = 256  # bytes
TYPES = {TensorProto.FLOAT: "FLOAT", TensorProto.UINT8: "UINT8", TensorProto.INT64: "INT64"}
ARRAYS = {"FLOAT": np.float32, "UINT8": np.uint8, "INT64": np.int64}
FLAGS = "DEBUG DISABLE_TIMING_CACHE GPU_FALLBACK REFIT REFIT_IDENTICAL STRIP_PLAN TF32 VERSION_COMPATIBLE"
OLD_FLAGS = "BF16 FP16 FP8 INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS"  # gone from 11


def _enum(name: str, members: str) -> Any:
    return IntEnum(name, {member: i for i, member in enumerate(members.split())})  # type: ignore[misc]


@dataclass
class _Plan:
    """What the fake serializes."""

    version: str
    device: str
    graph: bytes  # ONNX with its weights
    shapes: dict[str, tuple[int, ...]]  # inputs, settled
    open: dict[str, tuple[int, ...]]  # inputs as the graph has them
    refittable: bool
    scratch: int


class FakeTensorRT(SimpleNamespace):
    """The bindings of one version on one GPU, as a value with the module's names."""

    def __init__(self, version: str = "10.16.1.11", device: str = "sm89", scratch: int | None = None) -> None:
        """`scratch`: bytes that every engine needs; by default as many as its graph has nodes, times 1,000."""
        eleven = int(version.split(".")[0]) >= 11
        made = SimpleNamespace(
            version=version, device=device, scratch=scratch, built=0, told=[], captured=None, timings=[]
        )  # fmt: skip
        severity = _enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")
        names: dict[str, Any] = {
            "DataType": _enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64"),
            "TensorIOMode": _enum("TensorIOMode", "NONE INPUT OUTPUT"),
            "MemoryPoolType": _enum("MemoryPoolType", "WORKSPACE TACTIC_DRAM"),
            "ProfilingVerbosity": _enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED"),
            "ExecutionContextAllocationStrategy": _enum(
                "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED"
            ),
            "SerializationFlag": _enum("SerializationFlag", "EXCLUDE_WEIGHTS EXCLUDE_LEAN_RUNTIME INCLUDE_REFIT"),
            "LayerType": _enum("LayerType", "ACTIVATION CONSTANT CONVOLUTION ATTENTION_INPUT ATTENTION_OUTPUT"),
            "BuilderFlag": _enum("BuilderFlag", FLAGS if eleven else f"{FLAGS} {OLD_FLAGS}"),
            "NetworkDefinitionCreationFlag": _enum(
                "NetworkDefinitionCreationFlag", "STRONGLY_TYPED" if eleven else "EXPLICIT_BATCH STRONGLY_TYPED"
            ),
            "IAttentionInputLayer": IAttentionInputLayer,
            "ILogger": type("ILogger", (), {"Severity": severity, **severity.__members__}),
            "IProgressMonitor": type("IProgressMonitor", (), {}),
        }
        super().__init__(__version__=version, _made=made, **names)
        for maker in (Builder, OnnxParser, Runtime, Refitter, OnnxParserRefitter):
            setattr(self, maker.__name__, lambda *args, maker=maker: maker(self, *args))


class _Of:
    """Something of a fake."""

    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        assert isinstance(logger, trt.ILogger)
        self._trt, self._logger = trt, logger

    def _say(self, message: str, error: bool = True) -> None:
        severity = self._trt.ILogger
        self._logger.log(severity.ERROR if error else severity.VERBOSE, message)


class Builder(_Of):
    def create_network(self, flags: int = 0) -> INetworkDefinition:
        known = self._trt.NetworkDefinitionCreationFlag
        assert flags & ~sum(1 << int(flag) for flag in known) == 0, "a flag of another version"
        return INetworkDefinition(bool(flags >> int(known.STRONGLY_TYPED) & 1))

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._trt)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        said, made = None, self._trt._made
        open_ = {i.name for i in network._inputs if -1 in i.shape}
        profile = config._profiles[0]._shapes if config._profiles else {}
        if not network._typed and self._trt.__version__ < "11":
            said = "a weakly typed network: deprecated, and half precision is not kept"
        elif open_ - set(profile):
            said = "Network has dynamic or shape inputs, but no optimization profile has been defined."
        elif config.progress_monitor is not None:
            monitor, steps = config.progress_monitor, 5
            monitor.phase_start("Building engine", None, steps)
            done = all(monitor.step_complete("Building engine", step) for step in range(steps))
            monitor.phase_finish("Building engine")
            said = None if done else "the build was stopped"
        if said is not None:
            self._say(said)
            return None
        made.built += 1
        if config._timing is not None:
            config._timing._content += b"+measured"
        nodes = len(onnx.load_from_string(network._graph).graph.node)
        shapes = {i.name: profile[i.name][1] if i.name in profile else i.shape for i in network._inputs}
        refittable = self._trt.BuilderFlag.REFIT in config._flags
        scratch = made.scratch if made.scratch is not None else 1000 * nodes
        plan = _Plan(self._trt.__version__, made.device, network._graph, shapes,
                     {i.name: i.shape for i in network._inputs}, refittable, scratch)  # fmt: skip
        return pickle.dumps(plan)


class INetworkDefinition:
    def __init__(self, typed: bool) -> None:
        self._typed, self._graph = typed, b""
        self._inputs: list[Any] = []
        self._layers: list[Any] = []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> Any:
        return self._layers[index]


@dataclass
class ITensor:
    name: str
    shape: tuple[int, ...]


class ILayer:
    def __init__(self, type: Any, attention: Any = None) -> None:
        self.type, self._attention = type, attention


class IAttentionInputLayer(ILayer):
    @property
    def attention(self) -> Any:
        return self._attention


@dataclass
class IAttention:
    decomposable: bool = False


class OnnxParser(_Of):
    def __init__(self, trt: FakeTensorRT, network: INetworkDefinition, logger: Any) -> None:
        super().__init__(trt, logger)
        self._network, self._errors = network, []

    def parse_from_file(self, model: str) -> bool:
        try:
            graph = onnx.load(model)
        except Exception as error:  # a file that is missing, or none
            self._errors.append(ParserError("", str(error)))
            return False
        for node in graph.graph.node:
            if node.op_type not in {schema.name for schema in onnx.defs.get_all_schemas()}:
                self._errors.append(ParserError(node.name, f"Plugin not found: {node.op_type}"))
        self._network._graph = graph.SerializeToString()
        for value in graph.graph.input:
            shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)
            self._network._inputs.append(ITensor(value.name, shape))
        kinds = self._trt.LayerType
        for node in graph.graph.node:
            if node.op_type == "Attention":
                self._network._layers.append(ILayer(kinds.ATTENTION_INPUT, IAttention()))
            self._network._layers.append(
                ILayer(kinds.ATTENTION_OUTPUT if node.op_type == "Attention" else kinds.ACTIVATION)
            )
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]


@dataclass
class ParserError:
    _node: str
    _text: str

    def node_name(self) -> str:
        return self._node

    def node_operator(self) -> str:
        return self._node.partition("_")[0]

    def desc(self) -> str:
        return self._text


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        if not len(min) == len(opt) == len(max) or not all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)):
            raise ValueError("min <= opt <= max")
        self._shapes[input] = tuple(min), tuple(opt), tuple(max)


class IBuilderConfig:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt
        self._flags: set[Any] = set()
        self._pools: dict[Any, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._timing: ITimingCache | None = None
        self.progress_monitor: Any = None
        self.profiling_verbosity: Any = trt.ProfilingVerbosity.LAYER_NAMES_ONLY

    def set_flag(self, flag: Any) -> None:
        assert flag in list(self._trt.BuilderFlag), "a flag of another version"
        self._flags.add(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert pool in list(self._trt.MemoryPoolType) and pool_size > 0
        self._pools[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        header = f"{self._trt.__version__} {self._trt._made.device}".encode()
        self._trt._made.timings.append(bytes(serialized_timing_cache))
        if serialized_timing_cache and b"|" not in serialized_timing_cache:
            return None  # damaged
        return ITimingCache(bytes(serialized_timing_cache) or header + b"|")

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        header = f"{self._trt.__version__} {self._trt._made.device}".encode()
        if cache._content.split(b"|")[0] != header and not ignore_mismatch:
            return False
        self._timing = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing


@dataclass
class ITimingCache:
    _content: bytes

    def serialize(self) -> bytes:
        return self._content


class Runtime(_Of):
    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        try:
            plan = pickle.loads(bytes(serialized_engine))
        except Exception:
            plan = None
        if not isinstance(plan, _Plan):
            self._say("Magic tag does not match")
        elif plan.version != self._trt.__version__:
            self._say(f"The engine plan file is not compatible with this version, expecting {self._trt.__version__}")
        elif plan.device != self._trt._made.device:
            self._say("The engine plan file is generated on an incompatible device")
        else:
            return ICudaEngine(self._trt, self._logger, plan)
        return None


class ICudaEngine(_Of):
    def __init__(self, trt: FakeTensorRT, logger: Any, plan: _Plan) -> None:
        super().__init__(trt, logger)
        self._plan = plan
        self._load()

    def _load(self) -> None:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self._plan.graph, settings, providers=["CPUExecutionProvider"])
        model = onnx.load_from_string(self._plan.graph).graph
        self._io = {v.name: (v, mode) for vs, mode in ((model.input, "INPUT"), (model.output, "OUTPUT")) for v in vs}

    @property
    def num_io_tensors(self) -> int:
        return len(self._io)

    @property
    def device_memory_size_v2(self) -> int:
        return self._plan.scratch

    @property
    def refittable(self) -> bool:
        return self._plan.refittable

    def get_tensor_name(self, index: int) -> str:
        return list(self._io)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._trt.TensorIOMode[self._io[name][1]]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._trt.DataType[TYPES[self._io[name][0].type.tensor_type.elem_type]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        dims = self._io[name][0].type.tensor_type.shape.dim
        return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)

    def create_execution_context(self, strategy: Any) -> IExecutionContext:
        return IExecutionContext(self, strategy == self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)

    def create_serialization_config(self) -> ISerializationConfig:
        return ISerializationConfig()

    def serialize_with_config(self, config: ISerializationConfig) -> bytes:
        flags = {self._trt.SerializationFlag(flag).name for flag in config._flags}
        kept = self._plan.refittable and "INCLUDE_REFIT" in flags
        return pickle.dumps(_Plan(**{**vars(self._plan), "refittable": kept}))


@dataclass
class ISerializationConfig:
    _flags: list[Any] = field(default_factory=list)

    def set_flag(self, flag: Any) -> bool:
        self._flags.append(flag)
        return True


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, managed: bool) -> None:
        self._engine, self._managed = engine, managed
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._warm = False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._engine._plan.shapes[name] != tuple(shape):
            self._engine._say(f"{name}: {shape} is outside of the profile")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        known = self._engine.get_tensor_shape(name)
        if -1 not in known:
            return known
        if name in self._shapes:
            return self._shapes[name]
        if self._engine.get_tensor_mode(name) == self._engine._trt.TensorIOMode.INPUT or not self._specified():
            return known
        return tuple(self._compute({n: np.zeros(s, self._type(n)) for n, s in self._inputs().items()})[name].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._io or memory % ALIGNED:
            self._engine._say(f"{name}: no tensor of that name, or its address is not aligned")
            return False
        self._addresses[name] = memory
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._managed, "its memory is its own"
        assert memory % ALIGNED == 0
        if size < self._engine._plan.scratch:
            self._engine._say(f"{size} bytes of device memory are less than {self._engine._plan.scratch}")
            return
        self._scratch = (memory, size)

    def execute_async_v3(self, stream_handle: int) -> bool:
        missing = [name for name in self._engine._io if name not in self._addresses]
        if not stream_handle:
            said = "the default stream would wait for everything"
        elif missing:
            said = f"no address is set for {', '.join(missing)}"
        elif not self._specified():
            said = "not all input shapes are specified"
        elif self._managed and self._engine._plan.scratch and self._scratch[0] == 0:
            said = "no device memory is set"
        else:
            said = ""
        captured = self._engine._trt._made.captured
        if not said and captured is not None and not self._warm:
            said = "the first call allocates, which is not permitted while a stream captures"
        if said:
            self._engine._say(said)
            return False
        addresses, scratch = dict(self._addresses), self._scratch  # a capture keeps those of its time
        if captured is not None:
            captured.append(lambda: self._run(addresses, scratch))
        else:
            self._run(addresses, scratch)
        self._warm = True
        return True

    def _run(self, addresses: dict[str, int], scratch: tuple[int, int]) -> None:
        """Read, compute, write; and leave nothing of what lay in the scratch memory."""
        assert scratch == self._scratch, "replayed in scratch memory that has been replaced"
        if scratch[0]:
            ctypes.memset(scratch[0], 0xA5, self._engine._plan.scratch)
        given = {}
        for name, shape in self._inputs().items():
            size = int(np.prod(shape)) * np.dtype(self._type(name)).itemsize
            given[name] = np.frombuffer(ctypes.string_at(addresses[name], size), self._type(name)).reshape(shape)
        for name, array in self._compute(given).items():
            raw = np.ascontiguousarray(array).tobytes()
            ctypes.memmove(addresses[name], raw, len(raw))

    def _compute(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [value.name for value in self._engine._session.get_outputs()]
        return dict(zip(names, self._engine._session.run(names, given), strict=True))

    def _inputs(self) -> dict[str, tuple[int, ...]]:
        return {value.name: self.get_tensor_shape(value.name) for value in self._engine._session.get_inputs()}

    def _specified(self) -> bool:
        return not any(-1 in shape for shape in self._inputs().values())

    def _type(self, name: str) -> Any:
        return ARRAYS[self._engine.get_tensor_dtype(name).name]


class Refitter(_Of):
    def __init__(self, trt: FakeTensorRT, engine: ICudaEngine, logger: Any) -> None:
        super().__init__(trt, logger)
        self._engine = engine
        self._weights: dict[str, TensorProto] = {}

    def get_missing_weights(self) -> list[str]:
        model = onnx.load_from_string(self._engine._plan.graph).graph
        return [t.name for t in model.initializer if t.name not in self._weights] if self._engine.refittable else []

    def refit_cuda_engine(self) -> bool:
        if not self._engine.refittable:
            self._say("the engine was not built with BuilderFlag.REFIT")
            return False
        model = onnx.load_from_string(self._engine._plan.graph)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(self._weights[tensor.name])
        self._engine._plan.graph = model.SerializeToString()
        self._engine._load()
        return True


class OnnxParserRefitter(_Of):
    def __init__(self, trt: FakeTensorRT, refitter: Refitter, logger: Any) -> None:
        super().__init__(trt, logger)
        self._refitter = refitter

    def refit_from_file(self, model: str) -> bool:
        engine = self._refitter._engine
        if not engine.refittable:
            self._say("the engine is not refittable")
            return False
        wanted = {t.name: t for t in onnx.load_from_string(engine._plan.graph).graph.initializer}
        for tensor in onnx.load(model).graph.initializer:
            if tensor.name in wanted and tensor.dims == wanted[tensor.name].dims:
                self._refitter._weights[tensor.name] = tensor
        return set(self._refitter._weights) == set(wanted)
