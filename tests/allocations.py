"""How much memory NumPy's arrays ask for: its own allocator, with a counter before it (NumPy's proposal 49)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

SET_HANDLER, GET_HANDLER = 304, 305  # places in NumPy's table of C functions
CAPSULE = b"mem_handler"
MALLOC = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
CALLOC = *MALLOC, ctypes.c_size_t
REALLOC = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t


class Handler(ctypes.Structure):
    """PyDataMem_Handler."""

    _fields_ = (
        ("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("ctx", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p), ("calloc", ctypes.c_void_p), ("realloc", ctypes.c_void_p), ("free", ctypes.c_void_p),
    )  # fmt: skip


@contextmanager
def allocations(least: int = 4096) -> Iterator[list[int]]:
    """The sizes in bytes, of `least` and more, of all memory that this thread's arrays ask for within."""
    handler, sizes, _ = _counting()
    found: list[int] = []
    before = _numpy(SET_HANDLER, ctypes.py_object, ctypes.py_object)(handler)
    sizes.clear()
    try:
        yield found
    finally:
        found += [size for size in sizes if size >= least]
        _numpy(SET_HANDLER, ctypes.py_object, ctypes.py_object)(before)


@cache
def _counting() -> tuple[Any, list[int], Any]:
    """A handler, the sizes that it writes down, and what has to live as long as the arrays that it makes: for ever."""
    plain = _numpy(GET_HANDLER, ctypes.py_object)()
    own = Handler.from_address(_inside(plain, CAPSULE))
    sizes: list[int] = []

    def counted(address: int, types: tuple[Any, ...], size: Any) -> Any:
        ask = ctypes.PYFUNCTYPE(*types)(address)

        def asked(*arguments: int) -> int:
            sizes.append(size(*arguments[1:]))
            return ask(*arguments)  # type: ignore[no-any-return]

        return ctypes.PYFUNCTYPE(*types)(asked)

    functions = (
        counted(own.malloc, MALLOC, lambda size: size),
        counted(own.calloc, CALLOC, lambda count, size: count * size),
        counted(own.realloc, REALLOC, lambda at, size: size),
    )
    addresses = (ctypes.cast(function, ctypes.c_void_p) for function in functions)
    made = Handler(b"counting", own.version, own.ctx, *addresses, own.free)
    wrap = ctypes.pythonapi.PyCapsule_New
    wrap.restype, wrap.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return wrap(ctypes.addressof(made), CAPSULE, None), sizes, (made, functions, plain)


def _numpy(place: int, *types: Any) -> Any:
    """A function of NumPy's C interface; `types`: what it gives, and what it takes."""
    table = ctypes.cast(_inside(np._core.multiarray._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    return ctypes.PYFUNCTYPE(*types)(table[place])


def _inside(capsule: Any, name: bytes | None) -> int:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return pointer(capsule, name)  # type: ignore[no-any-return]
