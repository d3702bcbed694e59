"""Files from outside, read warily: sizes are checked before memory is taken, and nothing in them is ever executed.

It knows bytes and arrays, not poses. Object arrays, which are pickles, are refused; an .npz member nobody asks for is
not read.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from engine.errors import InputError

LIMIT = 1 << 30  # bytes, of a file and of everything inside it; an hour of SMPL-X at 120 Hz is a quarter of it


def read_bytes(path: Path) -> bytes:
    """The file's content. InputError where there is no such file, or it is empty or larger than LIMIT."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(str(path), "file", "a file", "a folder or device")
        if size == 0:
            raise InputError(str(path), "file", "a clip", "an empty file")
        if size > LIMIT:
            raise InputError(str(path), "file", f"at most {LIMIT >> 20} MiB", f"{size >> 20} MiB")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(str(path), "file", "a file", "no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(str(path), "file", "a readable file", str(error)) from None


def read_npy(path: Path) -> np.ndarray:
    """The array of an .npy file: numbers, booleans or text."""
    return parse_npy(str(path), "array", read_bytes(path))


def npz_names(path: Path) -> frozenset[str]:
    """Names of the arrays in an .npz file."""
    with _open_zip(path) as archive:
        return frozenset(name.removesuffix(".npy") for name in archive.namelist())


def read_npz(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those arrays of an .npz file that are among `names`."""
    arrays = {}
    with _open_zip(path) as archive:
        present = set(archive.namelist())
        for name in names:
            if f"{name}.npy" in present:
                arrays[name] = parse_npy(str(path), name, read_member(str(path), archive, f"{name}.npy"))
    return arrays


def read_member(where: str, archive: zipfile.ZipFile, name: str) -> bytes:
    """One member of a zip file, no larger than LIMIT, its checksum verified."""
    try:
        info = archive.getinfo(name)
        if info.file_size <= LIMIT:
            return archive.read(info)
    except Exception as error:  # damaged archives make zipfile and zlib raise nearly anything
        raise InputError(where, name, "an undamaged zip member", _short(error)) from None
    raise InputError(where, name, f"at most {LIMIT >> 20} MiB", f"{info.file_size >> 20} MiB")


def parse_npy(where: str, field: str, data: bytes) -> np.ndarray:
    """The array in the bytes of an .npy file, whose header must agree with the number of bytes that follow it."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"version {version}")
    except Exception as error:  # the header is Python text: what a damaged one raises is open-ended
        raise InputError(where, field, "an .npy array", _short(error)) from None
    if dtype.hasobject or dtype.kind not in "fiubSU" or dtype.itemsize == 0:
        raise InputError(where, field, "an array of numbers", f"dtype {dtype}"[:80])
    start, wanted = stream.tell(), math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or len(data) - start != wanted:
        raise InputError(where, field, f"{wanted} bytes for shape {shape}"[:80], f"{len(data) - start} bytes")
    flat = np.frombuffer(data, dtype, math.prod(shape), start)
    return flat.reshape(shape, order="F" if fortran else "C")


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed .npz beside `path` and rename it into place, so that no half-written file is ever seen."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        part.replace(path)
    except OSError as error:
        raise InputError(str(path), "file", "a place to write to", str(error)) from None
    finally:
        part.unlink(missing_ok=True)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(read_bytes(path)))
    except InputError:
        raise
    except Exception as error:  # as above
        raise InputError(str(path), "file", "an .npz archive", _short(error)) from None


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120] if str(error) else type(error).__name__
