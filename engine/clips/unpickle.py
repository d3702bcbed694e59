"""Pickles read as data: a small machine for the opcodes that arrays and tensors need, which calls nothing.

A global in a pickle stays a pair of words here; no module is imported and no object of the program is reachable.
Applying one of a short list of words (`BUILDERS`) builds an array from bytes; applying any other is refused.
Understands NumPy arrays (of NumPy 1 and 2, pickle protocols 2 to 5), and torch tensors without torch: pickled
plainly, or by `torch.save` in its old or its zip form. Values come out as dict, list, tuple, numbers, text, bytes,
None and NumPy arrays.

Sources: the opcodes, `pickletools` of the standard library; torch's containers, `torch/serialization.py` and
`torch/_utils.py`.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.clips.files import read_member
from engine.errors import InputError

MOST_ELEMENTS = 1 << 27  # of a tensor: strides of zero make large ones from few bytes
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
STORAGE_DTYPES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip


class NotDataError(ValueError):
    """The pickle holds something that is not data."""


@dataclass(frozen=True)
class Global:
    """The words of a global, never looked up."""

    module: str
    name: str


@dataclass
class Array:
    """A NumPy array that awaits its state."""

    value: np.ndarray | None = None


@dataclass
class Dtype:
    """A NumPy dtype that awaits its byte order."""

    value: np.dtype[Any]


@dataclass
class Storage:
    """The numbers behind tensors; torch's old files name them first and bring them last."""

    dtype: np.dtype[Any]
    data: np.ndarray | None = None


@dataclass
class Tensor:
    """A tensor as torch describes it: a window with strides on a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        numbers = (self.offset, *self.size, *self.stride)
        if any(type(n) is not int or n < 0 for n in numbers) or len(self.size) != len(self.stride):
            raise NotDataError("a tensor with odd sizes or strides")
        if math.prod(self.size) > MOST_ELEMENTS:
            raise NotDataError(f"a tensor of more than {MOST_ELEMENTS} elements")
        data = self.storage.data
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if data is None or (math.prod(self.size) > 0 and last >= len(data)):
            raise NotDataError("a tensor that reaches beyond its storage")
        if math.prod(self.size) == 0:
            return np.zeros(self.size, data.dtype)
        steps = [step * data.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.size, steps).copy()


def loads(where: str, data: bytes) -> Any:
    """The value in a pickle or `torch.save` file. InputError where it is damaged or holds more than data."""
    try:
        if data.startswith(b"PK"):
            return _load_zip(where, data)
        stream = io.BytesIO(data)
        machine = Machine()
        value = machine.run(stream)
        return plain(_load_old_torch(stream) if value == TORCH_MAGIC else value)
    except InputError:
        raise
    except NotDataError as error:
        raise InputError(where, "pickle", "arrays and tensors", str(error), "nothing in it was executed") from None
    except Exception as error:  # a damaged pickle can break any step of the machine
        raise InputError(where, "pickle", "an undamaged pickle", f"{type(error).__name__}: {error}"[:120]) from None


def plain(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """`value` with arrays in the place of what stood for them. Shared parts stay shared."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)]
    result = value
    if isinstance(value, Array):
        result = value.value
    elif isinstance(value, Tensor):
        result = value.array()
    elif isinstance(value, Storage):
        result = value.data
    elif isinstance(value, (list, tuple)):
        result = type(value)(plain(item, seen) for item in value)
    elif isinstance(value, dict):
        result = {key: plain(item, seen) for key, item in value.items()}
    elif isinstance(value, Global):
        raise NotDataError(f"the name {value.module}.{value.name}"[:100])
    seen[id(value)] = result
    return result


_MARK = object()
_PUSH = frozenset(
    (
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    )
)  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SILENT = frozenset(["PROTO", "FRAME", "STOP"])


class Machine:
    """Runs one pickle on a stack. `storage` answers a storage's key, data type and number of elements."""

    def __init__(self, storage: Callable[[str, np.dtype[Any], int], Storage] | None = None) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storage = storage

    def run(self, stream: io.BytesIO) -> Any:
        """The value of the pickle that begins here; the stream is left behind it."""
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in _PUSH:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name])
            elif opcode.name not in _SILENT:
                self._step(opcode.name, argument)
        (value,) = self.stack
        return value

    def _step(self, name: str, argument: Any) -> None:
        stack, memo = self.stack, self.memo
        match name:
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "LIST":
                stack.append(self._since_mark())
            case "DICT":
                items = self._since_mark()
                stack.append(dict(zip(items[::2], items[1::2], strict=True)))
            case "APPEND" | "APPENDS":
                items = self._since_mark() if name == "APPENDS" else [stack.pop()]
                _expect(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                _expect(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "GLOBAL":
                module, _, word = argument.partition(" ")
                stack.append(Global(module, word))
            case "STACK_GLOBAL":
                word, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
                stack.append(Global(module, word))
            case "REDUCE":
                arguments, function = (_expect(stack.pop(), tuple), _expect(stack.pop(), Global))
                if function not in BUILDERS:
                    raise NotDataError(f"a call of {function.module}.{function.name}"[:100])
                stack.append(BUILDERS[function](*arguments))
            case "BUILD":
                state = _expect(stack.pop(), tuple)
                _set_state(stack[-1], state)
            case "BINPERSID":
                stack.append(self._persistent(_expect(stack.pop(), tuple)))
            case _:
                raise NotDataError(f"the opcode {name}")

    def _since_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise NotDataError("a list without a beginning")

    def _persistent(self, key: tuple[Any, ...]) -> Storage:
        if self.storage is None or len(key) not in (5, 6) or key[0] != "storage" or key[5:] not in ((), (None,)):
            raise NotDataError("an object kept outside the file")
        _, kind, name, _, count = key[:5]
        if _expect(kind, Global).module not in ("torch", "torch.storage") or kind.name not in STORAGE_DTYPES:
            raise NotDataError(f"numbers of the kind {kind.module}.{kind.name}"[:100])
        return self.storage(_expect(name, str), np.dtype(STORAGE_DTYPES[kind.name]), _expect(count, int))


def _load_zip(where: str, data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if not found:
            raise NotDataError("a zip file without data.pkl")
        folder = found[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise NotDataError("a file from a big-endian machine")

        def storage(key: str, dtype: np.dtype[Any], count: int) -> Storage:
            return Storage(dtype, np.frombuffer(read_member(where, archive, f"{folder}data/{key}"), dtype, count))

        return plain(Machine(storage).run(io.BytesIO(read_member(where, archive, found[0]))))


def _load_old_torch(stream: io.BytesIO) -> Any:
    """What follows the magic number: version, system, value, keys, and then each key's count and numbers."""
    storages: dict[str, Storage] = {}

    def storage(key: str, dtype: np.dtype[Any], count: int) -> Storage:
        return storages.setdefault(key, Storage(dtype))

    Machine().run(stream)
    system = Machine().run(stream)
    if not _expect(system, dict).get("little_endian", True):
        raise NotDataError("a file from a big-endian machine")
    value = Machine(storage).run(stream)
    for key in Machine().run(stream):
        count = int.from_bytes(stream.read(8), "little", signed=True)
        kind = storages[key].dtype
        size = count * kind.itemsize
        data = stream.read(size) if 0 <= size <= MOST_ELEMENTS * 8 else b""
        if len(data) != size:
            raise NotDataError("a storage that is cut short")
        storages[key].data = np.frombuffer(data, kind)
    return value


def _expect(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise NotDataError(f"a {type(value).__name__} in the place of a {kind.__name__}")
    return value


def _bytes(value: Any) -> bytes:
    """Bytes; Python 2 and protocol 2 keep them as Latin-1 text."""
    if isinstance(value, str):
        return value.encode("latin1")
    if not isinstance(value, (bytes, bytearray)):
        raise NotDataError(f"a {type(value).__name__} in the place of bytes")
    return bytes(value)


def _set_state(target: Any, state: tuple[Any, ...]) -> None:
    if isinstance(target, Dtype):
        target.value = target.value.newbyteorder(">" if state[1] == ">" else "<" if state[1] == "<" else "=")
    elif isinstance(target, Array):
        _, shape, dtype, fortran, data = state if len(state) == 5 else (None, *state)
        target.value = _numbers(data, _expect(dtype, Dtype).value, shape, "F" if fortran else "C")
    else:
        raise NotDataError(f"a state for a {type(target).__name__}")


def _numbers(data: Any, dtype: np.dtype[Any], shape: Any, order: Any) -> np.ndarray:
    if isinstance(data, list):
        raise NotDataError("an array of objects")
    array = np.frombuffer(_bytes(data), dtype).reshape(_expect(shape, tuple), order="F" if order == "F" else "C")
    return np.asarray(array)


def _dtype(code: Any, *_: Any) -> Dtype:
    text = code.decode("ascii") if isinstance(code, bytes) else _expect(code, str)
    if not re.fullmatch(r"[<>=|]?(f[248]|[iu][1248]|b1)", text):
        raise NotDataError(f"an array of {text!r}"[:60])
    return Dtype(np.dtype(text))


def _scalar(dtype: Any, data: Any) -> Any:
    return np.frombuffer(_bytes(data), _expect(dtype, Dtype).value, 1)[0]


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    return Array(_numbers(data, _expect(dtype, Dtype).value, shape, order))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise NotDataError(f"bytes in {encoding!r}"[:60])
    return str(_expect(text, str)).encode("latin1")


def _storage(data: Any) -> Storage:
    stream = io.BytesIO(_bytes(data))
    if Machine().run(stream) != TORCH_MAGIC:
        raise NotDataError("a storage in an unknown form")
    storage: Storage = _expect(_load_old_torch(stream), Storage)
    return storage


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    return Tensor(_expect(storage, Storage), offset, _expect(size, tuple), _expect(stride, tuple))


def _array(*_: Any) -> Array:
    return Array()


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    return dict(pairs)


def _parameter(tensor: Any, *_: Any) -> Any:
    return _expect(tensor, Tensor)


BUILDERS: dict[Global, Callable[..., Any]] = {
    Global("collections", "OrderedDict"): _dict,
    Global("_codecs", "encode"): _encode,
    Global("numpy", "dtype"): _dtype,
    Global("torch.storage", "_load_from_bytes"): _storage,
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    **{Global(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    **{Global(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{Global(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}
