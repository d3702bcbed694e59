"""A Device (export.trt.memory) in this machine's memory, for the fake TensorRT: it counts what it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fake_tensorrt import ALIGNED, FakeTensorRT

from engine.arrays import HOST, Home


class Processor:
    """A Device in this machine's memory. It counts what was asked of it: `allocations`, `copies`, `captures`, `replays`."""

    def __init__(self, fake: FakeTensorRT, home: Home = HOST) -> None:
        self.home = home
        self._made = fake._made
        self.allocations = self.copies = self.captures = self.replays = self.waits = 0
        self.from_host = 0  # of the copies, those of pinned memory onto the device
        self._memory: dict[int, np.ndarray] = {}  # of the device, by address; never given back

    @property
    def stream(self) -> int:
        return 7

    def allocate(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        array = self._aligned(shape, dtype)
        self._memory[array.ctypes.data] = array
        return array

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        return self._aligned(shape, dtype)

    def holds(self, array: Any) -> bool:
        return isinstance(array, np.ndarray) and array.ctypes.data in self._memory

    def address(self, array: np.ndarray) -> int:
        assert self.holds(array)
        return array.ctypes.data

    def copy(self, target: np.ndarray, source: np.ndarray) -> None:
        if target.dtype != source.dtype:
            raise TypeError(f"{source.dtype} is not {target.dtype}")
        self.copies += 1
        self.from_host += self.holds(target) and not self.holds(source)
        target[...] = source

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        self._made.captured = steps = []
        before = self.allocations, self.copies
        try:
            work()
        finally:
            self._made.captured = None
        assert before == (self.allocations, self.copies), "only what the stream is asked to do can be captured"

        def replay() -> None:
            self.replays += 1
            for step in steps:
                step()

        return replay

    def wait(self) -> None:
        assert self._made.captured is None, "nobody waits while a stream captures"
        self.waits += 1

    def _aligned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        assert self._made.captured is None, "no memory is allocated while a stream captures"
        self.allocations += 1
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.zeros(size + ALIGNED, np.uint8)
        start = -raw.ctypes.data % ALIGNED
        return raw[start : start + size].view(dtype).reshape(tuple(shape))
