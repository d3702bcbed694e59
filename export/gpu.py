"""The NVIDIA GPUs of this machine, asked of the driver itself: no runtime needs to be there."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # of cuDeviceGetAttribute


@dataclass(frozen=True)
class GPU:
    name: str
    capability: tuple[int, int]  # (8, 9)
    memory: int  # bytes

    @property
    def sm(self) -> str:
        """Its architecture, as engines are named after: "sm89"."""
        return "sm{}{}".format(*self.capability)


@cache
def gpus() -> tuple[GPU, ...]:
    """In the driver's order; none where there is no driver, or it does not start."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(gpu for i in range(count.value) if (gpu := _gpu(cuda, i)) is not None)


def _gpu(cuda: ctypes.CDLL, index: int) -> GPU | None:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    failed = (
        cuda.cuDeviceGet(ctypes.byref(device), index)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device)
    )
    return None if failed else GPU(name.value.decode(errors="replace"), (major.value, minor.value), memory.value)
