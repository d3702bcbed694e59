"""The wire format: round trips, the documentation's vectors, and whatever else may arrive."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.errors import InputError
from engine.pose import PoseFrame
from streaming.messages import PoseMessage, SpeechMessage
from streaming.sources import wire
from streaming.sources.wire import WireError, decode, encode, encode_into

DOCUMENT = Path(__file__).parent.parent / "docs" / "wire.md"
HEAD = (0x11223344, 5, 1_234_567_890)  # session, sequence, capture time in ns


def floats(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.float32) / 256


def whole() -> PoseMessage:
    numbers = floats(268)
    return PoseMessage(*HEAD, pose=numbers[:165], expression=numbers[165:265], transl=numbers[265:])


def same(a: object, b: object) -> bool:
    assert type(a) is type(b) and isinstance(a, PoseMessage | SpeechMessage)
    for name in a.__slots__:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, np.ndarray):
            assert isinstance(y, np.ndarray) and x.dtype == y.dtype and x.tobytes() == y.tobytes(), name
        else:
            assert x == y, name
    return True


def part(size: int) -> st.SearchStrategy[np.ndarray | None]:
    return st.none() | arrays(np.float32, size, elements=st.floats(width=32))


head = st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1), st.integers(-(1 << 63), (1 << 63) - 1))
messages = st.one_of(
    st.builds(
        lambda head, *parts: PoseMessage(*head, *parts),
        head, part(165), part(100), part(3), st.none() | st.integers(1, 25).flatmap(lambda n: arrays(np.float32, n)),
    ).filter(lambda m: any(a is not None for a in (m.pose, m.expression, m.transl, m.betas))),
    st.builds(
        lambda head, samples: SpeechMessage(head[0], head[1], head[2], samples),
        head, st.integers(1, wire.MAX_SAMPLES).flatmap(lambda n: arrays(np.int16, n)),
    ),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(messages)
def test_a_message_comes_back_as_it_went(message: PoseMessage | SpeechMessage) -> None:
    data = encode(message)
    assert len(data) <= wire.MAX_BYTES
    assert same(decode(data), message)
    assert same(decode(memoryview(bytearray(data))), message)


def test_encoding_into_a_buffer_allocates_no_other_and_leaves_no_trace_of_the_last() -> None:
    buffer = bytearray(wire.MAX_BYTES)
    for message in (whole(), PoseMessage(*HEAD, transl=floats(3))):
        size = encode_into(buffer, message)
        assert bytes(buffer[:size]) == encode(message)


def test_decoded_arrays_do_not_depend_on_the_buffer() -> None:
    buffer = bytearray(encode(whole()))
    message = decode(buffer)
    buffer[:] = bytes(len(buffer))
    assert same(message, whole())


def test_a_frame_becomes_a_message() -> None:
    frame = PoseFrame(7, floats(165), floats(100), floats(3))
    message = decode(encode(PoseMessage.of(frame, 1, 2, floats(10))))
    assert isinstance(message, PoseMessage) and message.capture_ns == 7 and message.betas is not None
    assert len(message.betas) == 10


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (PoseMessage(*HEAD), "flags"),
        (PoseMessage(*HEAD, pose=floats(66)), "pose"),
        (PoseMessage(*HEAD, pose=floats(165), expression=floats(100), transl=floats(3), betas=floats(26)), "betas"),
        (PoseMessage(*HEAD, betas=floats(0)), "betas"),
        (PoseMessage(1 << 32, 0, 0, transl=floats(3)), "header"),
        (SpeechMessage(*HEAD, samples=np.zeros(587, np.int16)), "samples"),
    ],
)
def test_what_does_not_fit_is_not_encoded(message: PoseMessage | SpeechMessage, field: str) -> None:
    with pytest.raises(WireError) as error:
        encode(message)
    assert error.value.field == field and "\n" not in str(error.value)


def mutate(at: int, value: bytes, data: bytes | None = None) -> bytes:
    data = data or encode(whole())
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "length"),
        (b"LVAN", "length"),
        (bytes(1201), "length"),
        (bytes(1096), "magic"),
        (mutate(4, b"\x02"), "version"),
        (mutate(5, b"\x00"), "kind"),
        (mutate(6, b"\x00\x00"), "flags"),
        (mutate(6, b"\x17\x00"), "flags"),
        (mutate(6, b"\x05\x00"), "length"),
        (encode(whole())[:-1], "length"),
        (encode(whole()) + b"\x00", "length"),
        (encode(PoseMessage(*HEAD, betas=floats(1)))[:26], "betas"),
        (mutate(24, b"\xff\xff\xff\xff", encode(PoseMessage(*HEAD, betas=floats(1)))), "betas"),
        (mutate(24, b"\x00\x00\x00\x00", encode(SpeechMessage(*HEAD, samples=np.ones(1, np.int16)))), "samples"),
    ],
)
def test_a_malformed_message_is_told_in_one_line(data: bytes, field: str) -> None:
    with pytest.raises(WireError) as error:
        decode(data)
    assert isinstance(error.value, InputError)
    assert error.value.field == field and "\n" not in str(error.value)


def survives(data: bytes) -> None:
    try:
        message = decode(data)
    except WireError as error:
        assert "\n" not in str(error)
    else:
        assert encode(message) == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=1300))
def test_random_bytes(data: bytes) -> None:
    survives(data)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 2), st.integers(0, 20), head, st.binary(max_size=1180))
def test_random_bytes_behind_a_good_header(kind: int, flags: int, numbers: tuple[int, int, int], rest: bytes) -> None:
    survives(struct.pack("<4sBBHIIq", b"LVAN", 1, kind, flags, *numbers) + rest)


@settings(max_examples=300, deadline=None)
@given(messages, st.lists(st.tuples(st.integers(0, 1199), st.integers(0, 7)), max_size=4), st.integers(0, 1200))
def test_flipped_bits_and_cut_tails(
    message: PoseMessage | SpeechMessage, flips: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(encode(message))
    for at, bit in flips:
        data[at % len(data)] ^= 1 << bit
    survives(bytes(data))
    survives(bytes(data[:length]))


def vector(name: str) -> bytes:
    found = re.search(rf"```hex {name}\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert found
    return bytes.fromhex(found.group(1))


def test_the_documents_vectors_are_what_the_code_makes() -> None:
    transl = PoseMessage(*HEAD, transl=np.array([1, -2, 0.5], np.float32))
    betas = PoseMessage(*HEAD, betas=np.array([1.5, -0.25], np.float32))
    speech = SpeechMessage(*HEAD, samples=np.array([1, -1, 32767], np.int16))
    for name, message in (("transl", transl), ("betas", betas), ("speech", speech)):
        assert encode(message) == vector(name) and same(decode(vector(name)), message)
    data = encode(whole())
    assert len(data) == 1096 and f"`{zlib.crc32(data):08x}`" in DOCUMENT.read_text()


def test_the_documents_offsets_are_the_codes() -> None:
    data = encode(whole())
    assert struct.unpack_from("<f", data, 24)[0] == 0.0
    assert struct.unpack_from("<f", data, 684)[0] == 165 / 256
    assert struct.unpack_from("<f", data, 1084)[0] == 265 / 256
    assert len(encode(PoseMessage(*HEAD, pose=floats(165), transl=floats(3)))) == 696
    assert len(encode(SpeechMessage(*HEAD, samples=np.zeros(480, np.int16)))) == 988


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.S)
    assert found
    return found.group(1)


def check_the_example_sends(inbox: socket.socket, command: list[str | Path]) -> None:
    """Run a sender cut down to three frames, and decode what it sends."""
    subprocess.run(command, check=True, timeout=20)
    got = [decode(inbox.recv(2000)) for _ in range(3)]
    assert [m.sequence for m in got] == [0, 1, 2] and len({m.session for m in got}) == 1
    last = got[-1]
    assert isinstance(last, PoseMessage) and last.pose is not None and last.betas is None
    assert last.capture_ns == 2 * 10**9 // 30
    assert last.pose[45] == pytest.approx(0.3 * np.sin(2 * np.pi * 2 / 30), abs=1e-6)
    assert np.count_nonzero(last.pose) == 1
    assert last.expression is not None and last.transl is not None


@pytest.fixture
def inbox() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox:
        inbox.bind(("127.0.0.1", 0))
        inbox.settimeout(10)
        yield inbox


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++) here")
def test_the_documents_cpp_sender_speaks_the_format(tmp_path: Path, inbox: socket.socket) -> None:
    code = example("cpp").replace("htons(9000)", f"htons({inbox.getsockname()[1]})").replace("i < 10 * fps", "i < 3")
    (tmp_path / "sender.cpp").write_text(code)
    subprocess.run(["g++", "-std=c++17", "-Wall", "-o", tmp_path / "sender", tmp_path / "sender.cpp"], check=True)
    check_the_example_sends(inbox, [tmp_path / "sender"])


@pytest.mark.skipif(shutil.which("mcs") is None, reason="no C# compiler (mcs) here")
def test_the_documents_csharp_sender_speaks_the_format(tmp_path: Path, inbox: socket.socket) -> None:
    code = example("csharp").replace("9000", str(inbox.getsockname()[1])).replace("i < 10 * Fps", "i < 3")
    (tmp_path / "Sender.cs").write_text(code)
    subprocess.run(["mcs", f"-out:{tmp_path / 'sender.exe'}", "-r:System.dll", tmp_path / "Sender.cs"], check=True)
    check_the_example_sends(inbox, ["mono", tmp_path / "sender.exe"])
