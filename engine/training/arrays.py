"""Arrays on disc that do not fit into memory: made once, filled row by row, read as memory maps.

Rows are written, never mapped: a disc that fills up is an error then, where a mapped page without room kills the process.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from engine.errors import InputError


def check_room(folder: Path, wanted: int) -> None:
    """InputError where the disc of `folder`, which exists, has less than `wanted` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise InputError(str(folder), "disc", f"{wanted / 1e9:.2f} GB free", f"{free / 1e9:.2f} GB")


def create(path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    """A .npy file of zeros that takes its room when it is filled."""
    kind = np.dtype(dtype)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + math.prod(shape) * kind.itemsize)


class Rows:
    """Writes rows of the array in `path`, from any number of processes: `rows[i] = row`. InputError where a row has no room."""

    def __init__(self, path: Path) -> None:
        array = np.load(path, mmap_mode="r")
        self._path, self._shape, self._dtype, self._start = path, array.shape[1:], array.dtype, array.offset
        self._file = path.open("r+b", buffering=0)

    def __setitem__(self, index: int, row: Any) -> None:
        data = np.asarray(row, self._dtype)
        if data.shape != self._shape:
            raise ValueError(f"a row of {self._path.name} is {self._shape}, not {data.shape}")
        left, at = memoryview(data.tobytes()), self._start + int(index) * data.nbytes
        try:
            while left:
                done = os.pwrite(self._file.fileno(), left, at)
                left, at = left[done:], at + done
        except OSError as error:
            raise InputError(str(self._path), f"row {index}", "room on the disc", str(error.strerror)) from None

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def mapped(path: Path, shape: tuple[int | None, ...], dtype: Any) -> np.ndarray:
    """The array in `path`, read-only, of `shape` (None: any length). InputError where it is missing, cut or another."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise InputError(str(path), "file", "an array, made by `observe`", "no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(str(path), "file", "a whole .npy array", str(error)) from None
    if array.ndim != len(shape) or any(a is not None and a != b for a, b in zip(shape, array.shape, strict=True)):
        raise InputError(str(path), "shape", str(shape).replace("None", "N"), str(array.shape))
    if array.dtype != dtype:
        raise InputError(str(path), "dtype", np.dtype(dtype).name, str(array.dtype))
    return array
