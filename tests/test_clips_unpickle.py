"""The pickle machine reads arrays and tensors, and runs nothing."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clips import read_clip
from engine.clips.unpickle import loads
from engine.errors import InputError

ARRAYS = {
    "f4": np.arange(6, dtype="f4").reshape(2, 3),
    "big": np.arange(6, dtype=">f8").reshape(3, 2),
    "columns": np.asfortranarray(np.arange(6, dtype="i8").reshape(2, 3)),
    "flags": np.array([True, False]),
    "scalar": np.float32(2.5),
    "plain": [1, -(2**70), 0.5, "text", b"bytes", None, True, (1, 2, 3, 4), {"a": [()]}],
}


def same(a: Any, b: Any) -> None:
    if isinstance(b, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_arrays_of_every_protocol(protocol: int) -> None:
    got = loads("new", pickle.dumps(ARRAYS, protocol))
    for name, value in ARRAYS.items():
        same(got[name], value)


def test_both_numpy_module_paths() -> None:
    data = pickle.dumps(ARRAYS["f4"], 2)
    paths = (b"numpy._core.multiarray", b"numpy.core.multiarray")
    present = next(p for p in paths if p in data)
    for path in paths:
        same(loads("array", data.replace(present, path)), ARRAYS["f4"])


def test_torch_tensors_without_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    value = {
        "whole": base, "view": base[1:3, ::2], "turned": base.T, "wide": torch.tensor([1.5]).expand(3, 2),
        "double": torch.arange(3, dtype=torch.float64), "long": torch.arange(3), "half": torch.ones(2).half(),
        "flag": torch.tensor([True, False]), "zero": torch.tensor(7.0), "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)), "array": np.arange(3.0),
    }  # fmt: skip
    files = {f"pickle {p}": pickle.dumps(value, p) for p in (2, 3, 4, 5)}
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save(value, stream, _use_new_zipfile_serialization=zipped)
        files[f"save {zipped}"] = stream.getvalue()
    for name, data in files.items():
        got = loads(name, data)
        for key, tensor in value.items():
            same(got[key], np.asarray(tensor.detach().numpy() if hasattr(tensor, "detach") else tensor))


def test_reading_a_pickle_imports_no_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": torch.arange(3.0)}))
    code = "import sys; from engine.clips.unpickle import loads; data = open(sys.argv[1], 'rb').read()\n"
    code += "print(loads('a', data)['a'].sum(), 'torch' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pkl")], check=False, cwd=root, capture_output=True, text=True
    )
    assert out.stdout.split() == ["3.0", "False"], out.stderr


class Call:
    """Pickles to a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def payloads(mark: Path) -> dict[str, bytes]:
    """Pickles that make the file `mark` if they run."""
    command = f"touch {mark}"
    found = {
        "os.system": pickle.dumps(Call(os.system, command)),
        "eval": pickle.dumps(Call(eval, f"open({str(mark)!r}, 'w')")),
        "exec": pickle.dumps(Call(exec, f"open({str(mark)!r}, 'w')")),
        "open": pickle.dumps(Call(open, str(mark), "w")),
        "popen": pickle.dumps(Call(subprocess.Popen, ["touch", str(mark)])),
        "import": pickle.dumps(Call(builtins.__import__, "antigravity")),
        "in a list of arrays": pickle.dumps([np.ones(3), {"a": Call(os.system, command)}]),
        "os by its own name": f"cos\nsystem\n(S'{command}'\ntR.".encode(),
        "posix": f"cposix\nsystem\n(S'{command}'\ntR.".encode(),
        "INST": f"(S'{command}'\nios\nsystem\n.".encode(),
        "OBJ": f"(cos\nsystem\nS'{command}'\no.".encode(),
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(](U\x05touchU"
        + bytes([len(str(mark))])
        + str(mark).encode()
        + b"et\x81.",
        "numpy as a ladder": b"\x80\x04\x8c\x05numpy\x8c\x0bos.system.x\x93.",
        "getattr": b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(S'os'\ntRS'system'\ntR"
        + f"(S'{command}'\ntR.".encode(),
        "numpy runstring": b"cnumpy.testing._private.utils\nrunstring\n"
        + f"(S'import os; os.system(\"{command}\")'\n}}tR.".encode(),
        "torch.load": pickle.dumps(Call(eval, "1"))
        .replace(b"builtins", b"torch.serialization")
        .replace(b"eval", b"load"),
        "setstate on a function": b"ctorch._utils\n_rebuild_tensor_v2\n(N}(S'__defaults__'\n(K\x01tutb.",
        "persistent id": b"\x80\x02(U\x07storagecos\nsystem\nU\x01aU\x03cpuK\x01tQ.",
        "persistent text": b"Pos.system\n.",
        "extension": b"\x80\x02\x82\x01.",
        "object array": pickle.dumps(np.array([Call(os.system, command)], dtype=object)),
        "decoder": b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aU\x03rottR.",
        "nested in a storage": b"",
    }
    inner = io.BytesIO()
    pickle.dump(Call(os.system, command), inner, 2)
    nested = inner.getvalue()
    found["nested in a storage"] = (
        b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(nested)) + nested + b"\x85R."
    )
    return found


@pytest.mark.parametrize("name", list(payloads(Path("x"))))
def test_no_payload_runs(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "clip.pkl"
    path.write_bytes(payloads(mark)[name])
    with pytest.raises(InputError) as caught:
        read_clip(path, format="show")
    assert not mark.exists() and "\n" not in str(caught.value)


def test_the_payloads_are_real(tmp_path: Path) -> None:
    """The control: Python's own pickle runs such files."""
    mark = tmp_path / "ran"
    for name in ("os.system", "os by its own name", "INST", "in a list of arrays", "getattr"):
        pickle.loads(payloads(mark)[name])
        assert mark.exists(), name
        mark.unlink()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x96" + struct.pack("<Q", 1 << 60) + b"x.",  # BYTEARRAY8 of an exabyte
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",  # BINBYTES8
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"(" * 100_000 + b".",
        b"]" + b"]q\x00(" * 20_000 + b".",
        b".",
        b"\x80\x02}]K\x01s.",  # a list as a key
    ],
)
def test_greedy_and_endless_pickles(data: bytes) -> None:
    with pytest.raises(InputError):
        loads("greedy", data)


def test_claimed_sizes_take_no_memory() -> None:
    assert loads("memo", b"\x80\x02N" + b"r" + struct.pack("<I", 0xFFFFFFF0) + b".") is None  # C's memo takes 64 GB
    assert loads("frame", b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.") is None


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((1 << 40,), (0,), 0),
        ((4,), (1,), 1),
        ((2, 2), (3, 1), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 3),
        ((2,), (1,), -1),
        ((2,), (1, 1), 0),
        ((True,), (1,), 0),
    ],
)
def test_tensors_stay_inside_their_storage(size: tuple, stride: tuple, offset: int) -> None:
    torch = pytest.importorskip("torch")
    storage = torch.arange(4.0).storage()
    data = pickle.dumps(Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, {}), 2)
    with pytest.raises(InputError, match="tensor"):
        loads("tensor", data)


def test_shared_parts_unfold_only_once() -> None:
    laughs: list[Any] = [np.ones(1)]
    for _ in range(60):
        laughs = [laughs, laughs]  # 2^60 paths
    assert len(loads("laughs", pickle.dumps(laughs))) == 2


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    try:
        loads("bytes", data)
        loads("bytes", b"\x80\x04" + data + b".")
    except InputError:
        pass
