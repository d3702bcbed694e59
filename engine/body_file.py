"""A SMPL-X .npz from the outside world, read key by key and checked; what is wrong is said in one line.

Nothing is ever unpickled: keys that nobody asks for (some hold pickled objects) are not touched.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Self

import numpy as np

from engine.errors import InputError
from engine.skeleton import JOINTS, PARENTS


class ModelFile:
    """A SMPL-X .npz, read key by key; keys that nobody asks for (some hold pickled objects) are never touched."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        what = "an SMPL-X model file (.npz)"
        if not path.is_file():
            raise InputError(self.name, "file", what, "no such file")
        try:
            archive = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(self.name, "file", what, f"something unreadable: {error}") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(self.name, "file", what, "a single array")
        self._archive = archive

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def floats(self, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """A finite float32 array of `shape` (None: any length)."""
        array = self._array(key, shape)
        if array.dtype.kind not in "fiu":
            raise InputError(self.name, key, "numbers", str(array.dtype))
        result = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(result).all():
            raise InputError(self.name, key, "finite numbers", "NaN or infinity")
        return result

    def indices(self, key: str, shape: tuple[int | None, ...], limit: int) -> np.ndarray:
        """An int32 array of `shape` with values in [0, limit)."""
        array = self._array(key, shape)
        if array.dtype.kind not in "fiu" or array.size == 0 or np.any(array != np.floor(array)):
            raise InputError(self.name, key, "whole numbers", f"{array.dtype} of shape {array.shape}")
        if array.min() < 0 or array.max() >= limit:
            raise InputError(
                self.name,
                key,
                f"indices from 0 to {limit - 1}",
                f"{array.min():g} to {array.max():g}",
            )
        return np.ascontiguousarray(array, np.int32)

    def check_tree(self) -> None:
        """The tree must be SMPL-X's: a pose means something only there."""
        table = self._array("kintree_table", (2, JOINTS))
        if table.dtype.kind not in "iu" or not np.array_equal(table[0, 1:].astype(np.int64), PARENTS[1:]):
            raise InputError(
                self.name,
                "kintree_table",
                "the parents of SMPL-X's 55 joints",
                "another tree",
            )

    def paint(self, count: int) -> np.ndarray:
        """Our own label colours (V,) uint8, zeros where there are none."""
        if "paint" not in self._archive.files:
            return np.zeros(count, np.uint8)
        array = self._array("paint", (count,))
        if array.dtype != np.uint8:
            raise InputError(self.name, "paint", "uint8", str(array.dtype))
        return array

    def _array(self, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
        wanted = "(" + ", ".join("n" if n is None else str(n) for n in shape) + ")"
        if key not in self._archive.files:
            raise InputError(
                self.name,
                key,
                f"an array of shape {wanted}",
                "nothing",
                "is this an SMPL-X model?",
            )
        try:
            array = np.asarray(self._archive[key])
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                self.name,
                key,
                f"an array of shape {wanted}",
                f"unreadable data: {error}",
            ) from error
        if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
            raise InputError(self.name, key, f"shape {wanted}", f"shape {array.shape}")
        return array
