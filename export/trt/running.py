"""Engines as Networks: addresses set once, one stream and one scratch memory for all of a set, calls replayed as CUDA graphs.

`trt` is tensorrt's bindings, passed as a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import RLock
from types import MappingProxyType
from typing import Any

import numpy as np

from engine.arrays import HOST, Array
from engine.errors import InputError
from export.golden import confirm
from export.runtimes.inputs import check, settled
from export.seam import Fixed, Options, Source
from export.trt.building import sizes
from export.trt.engines import PLAN, REFITTED, Engine, key_of, opened, prepare
from export.trt.kit import Kit
from export.trt.memory import Device


@dataclass
class Shared:
    """What networks that run one after the other share. Scratch memory is as large as the largest of them needs."""

    device: Device
    lock: RLock = field(default_factory=RLock)  # stages of a pipeline call from threads of their own
    scratch: Any = None
    members: list[TensorRTNetwork] = field(default_factory=list)

    def admit(self, network: TensorRTNetwork, scratch: int) -> None:
        """Let a network use the scratch memory, of which it needs so many bytes."""
        self.members.append(network)
        if self.scratch is None or scratch > len(self.scratch):
            self.device.wait()  # nobody uses the one that goes
            self.scratch = self.device.allocate((max(scratch, 1),), np.uint8)
            for member in self.members:
                member.use(self.device.address(self.scratch), len(self.scratch))
        else:
            network.use(self.device.address(self.scratch), len(self.scratch))


class TensorRTNetwork:
    """An engine with its own memory for inputs and outputs, on the device and on the host (engine.network.Network)."""

    def __init__(self, trt: Any, engine: Engine, frames: int, shared: Shared) -> None:
        device, inside = shared.device, engine.engine
        self.home = device.home
        self._shared, self._device, self._engine = shared, device, engine
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._context = self._done(inside.create_execution_context(strategy), "make a context")
        names = [inside.get_tensor_name(i) for i in range(inside.num_io_tensors)]
        given = [name for name in names if inside.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        for name, shape in settled({name: sizes(inside.get_tensor_shape(name)) for name in given}, frames).items():
            self._done(self._context.set_input_shape(name, tuple(shape)), f"take {name} of {shape}")
        shapes = {name: tuple(int(size) for size in self._context.get_tensor_shape(name)) for name in names}
        self.fixed: Mapping[str, np.ndarray] = MappingProxyType({})
        self.inputs: Mapping[str, tuple[int, ...]] = MappingProxyType({name: shapes[name] for name in given})
        self.outputs: Mapping[str, tuple[int, ...]] = MappingProxyType(
            {name: shapes[name] for name in names if name not in given}
        )
        types = {name: _types(trt)[inside.get_tensor_dtype(name)] for name in names}
        self._there = {name: device.allocate(shapes[name], types[name]) for name in names}  # on the device
        self._here = {name: device.pinned(shapes[name], types[name]) for name in names}
        self._said = MappingProxyType({name: self._here[name] for name in self.outputs})
        self._replay: Callable[[], None] | None = None
        for name, array in self._there.items():
            self._done(self._context.set_tensor_address(name, device.address(array)), f"bind {name}")
        with shared.lock:
            shared.admit(self, int(inside.device_memory_size_v2))

    def fix(self, fixed: Fixed) -> None:
        """Write inputs once and for all: a call no longer takes them."""
        arrays = dict(fixed(self.inputs))
        check({name: self.inputs[name] for name in arrays}, arrays)
        with self._shared.lock:
            for name, array in arrays.items():
                self._bring(name, array)
            self._device.wait()
        self.fixed = MappingProxyType({**self.fixed, **arrays})
        self.inputs = MappingProxyType({name: s for name, s in self.inputs.items() if name not in arrays})

    def __call__(self, **inputs: Array) -> Mapping[str, Array]:
        """ValueError where an input is missing, unknown or of another shape. Inputs may lie on the device; outputs do, if that is home."""
        with self._shared.lock:
            said = self.compute(inputs)
            if self.home is HOST:
                for name, array in said.items():
                    self._device.copy(self._here[name], array)
                said = self._said
            self._device.wait()
        return said

    def compute(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same, with outputs that stay on the device. They are there, and inputs may come again, once it has been waited for."""
        check(self.inputs, inputs)
        with self._shared.lock:
            for name, array in inputs.items():
                self._bring(name, array)
            if self._replay is None:
                self._execute()  # the first time it sets itself up, which cannot be captured
                self._device.wait()
                self._replay = self._device.capture(self._execute)
            else:
                self._replay()
        return {name: self._there[name] for name in self.outputs}

    def use(self, scratch: int, size: int) -> None:
        """Compute in this scratch memory from now on. What was captured used another."""
        self._context.set_device_memory(scratch, size)
        self._replay = None

    def _bring(self, name: str, array: Any) -> None:
        """An input to where the engine reads it: from the device itself, or from the host by way of pinned memory."""
        if not self._device.holds(array):
            np.copyto(self._here[name], array, casting="same_kind")
            array = self._here[name]
        self._device.copy(self._there[name], array)

    def _execute(self) -> None:
        self._done(self._context.execute_async_v3(self._device.stream), "run")

    def _done(self, result: Any, what: str) -> Any:
        """TensorRT returns None or False, and tells its logger why."""
        if result is None or result is False:
            raise RuntimeError(f"TensorRT could not {what}: {self._engine.log.line()[:200]}")
        return result


def load(kit: Kit, source: Source, options: Options, fixed: Fixed, device: Callable[[], Device]) -> TensorRTNetwork:
    """A graph's engine, ready to run beside those that were loaded with the same options.

    InputError as from `prepare`, and where it was given other weights and does not compute what they would.
    """
    folder = prepare(kit, source, options.cache)
    engine = opened(kit, (folder / PLAN).read_bytes(), str(source.file))
    shared = options.together.get(kit.name)
    if shared is None:
        shared = options.together[kit.name] = Shared(device())
    network = TensorRTNetwork(kit.trt, engine, source.batch, shared)
    if source.golden is not None and (folder / REFITTED).exists():
        try:
            confirm(source.golden, network, kit.computes, str(source.file))
        except InputError:
            options.cache.drop(key_of(kit, source))
            raise
    network.fix(fixed)
    return network


def _types(trt: Any) -> dict[Any, Any]:
    """What graphs have for inputs and outputs."""
    return {trt.DataType.FLOAT: np.float32, trt.DataType.UINT8: np.uint8, trt.DataType.INT64: np.int64}
