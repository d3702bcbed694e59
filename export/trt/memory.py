"""A GPU's memory, its stream and its CUDA graphs, as TensorRT's networks use them: by way of torch, in a thin shell.

`Device` is all that running needs to know of it, so that a processor can play its part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from engine.arrays import Home
from engine.errors import InputError


class Device(Protocol):
    """Memory and one stream: what is asked of it happens in the order in which it was asked, some time before `wait` returns."""

    home: Home  # where networks leave what they say: HOST, or the device itself

    @property
    def stream(self) -> int:
        """The stream's handle."""
        ...

    def allocate(self, shape: Sequence[int], dtype: Any) -> Any:
        """An array on the device, aligned to 256 bytes."""
        ...

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """An array of the host that is copied without waiting."""
        ...

    def holds(self, array: Any) -> bool:
        """Whether `array` lies on the device."""
        ...

    def address(self, array: Any) -> int:
        """Of an array on the device."""
        ...

    def copy(self, target: Any, source: Any) -> None:
        """Copy between arrays of one shape and type, on the device or pinned. TypeError, ValueError where they are not."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph of what `work` asks of the stream, which does not happen now; the result lets it happen."""
        ...

    def wait(self) -> None:
        """Until all that was asked has happened."""
        ...


class CUDA:
    """A Device by torch. InputError where torch is missing, or has no GPU. (Not verified: no GPU was at hand.)"""

    def __init__(self, index: int = 0) -> None:
        try:
            import torch
        except ImportError:
            raise InputError(
                "runtime", "torch", "torch, for memory of the GPU", "none", "pip install 'liveanchor[gpu]'"
            ) from None
        if not torch.cuda.is_available():
            raise InputError(
                "runtime", "torch", "a build of torch that sees the GPU", f"{torch.__version__}, which sees none"
            )
        self._torch, self._device = torch, torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        from engine.networks.tensors import Tensors

        self.home: Home = Tensors(self._device)

    @property
    def stream(self) -> int:
        return int(self._stream.cuda_stream)

    def allocate(self, shape: Sequence[int], dtype: Any) -> Any:
        with self._torch.cuda.stream(self._stream):  # whose memory it is, until it is freed in its order
            return self._torch.zeros(tuple(shape), dtype=self._type(dtype), device=self._device)

    def pinned(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        array: np.ndarray = self._torch.zeros(tuple(shape), dtype=self._type(dtype), pin_memory=True).numpy()
        return array

    def holds(self, array: Any) -> bool:
        return isinstance(array, self._torch.Tensor) and array.is_cuda

    def address(self, array: Any) -> int:
        return int(array.data_ptr())

    def copy(self, target: Any, source: Any) -> None:
        a, b = (self._torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in (target, source))
        if a.dtype != b.dtype:
            raise TypeError(f"{b.dtype} is not {a.dtype}")
        if a.shape != b.shape:
            raise ValueError(f"{tuple(b.shape)} is not {tuple(a.shape)}")
        # Whoever computes what is copied, or still reads what will be overwritten, may use another stream.
        self._stream.wait_stream(self._torch.cuda.current_stream(self._device))
        with self._torch.cuda.stream(self._stream):
            a.copy_(b, non_blocking=True)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = self._torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile: another avatar may be on air.
        with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()

        def replay() -> None:
            with self._torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def wait(self) -> None:
        self._stream.synchronize()

    def _type(self, dtype: Any) -> Any:
        return getattr(self._torch, np.dtype(dtype).name)
