"""The wire format: one message is one datagram, one WebSocket binary message, or one data channel message.

A fixed little-endian header of 24 bytes, then little-endian arrays; `docs/wire.md` says it byte by byte for those who
write a sender. This module turns bytes into messages and back. It knows nothing of sockets, clocks or order.
"""

from __future__ import annotations

import struct

import numpy as np

from engine.errors import InputError
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from streaming.messages import MAX_BETAS, PoseMessage, SpeechMessage

MAGIC = b"LVAN"
VERSION = 1
POSE, SPEECH = 1, 2  # kinds of message
HAS_POSE, HAS_EXPRESSION, HAS_TRANSL, HAS_BETAS = 1, 2, 4, 8  # flags of a pose message, in the order of their arrays
MAX_BYTES = 1200  # fits one datagram on every path of the Internet (IPv6 minimum MTU 1280, RFC 8200 section 5)

_HEADER = struct.Struct("<4sBBHIIq")  # magic, version, kind, flags, session, sequence, capture time in ns
_COUNT = struct.Struct("<I")
HEADER_BYTES = _HEADER.size  # 24
MAX_SAMPLES = (MAX_BYTES - HEADER_BYTES - _COUNT.size) // 2  # 586 in one speech message

# The arrays of a pose message in their order: flag, name, length. Betas follow with a count of their own.
PARTS = ((HAS_POSE, "pose", POSE_DIMS), (HAS_EXPRESSION, "expression", EXPRESSION_DIMS), (HAS_TRANSL, "transl", 3))

Data = bytes | bytearray | memoryview

_FLOAT = np.dtype("<f4")
_SAMPLE = np.dtype("<i2")


class WireError(InputError):
    """A message that is not in the wire format."""


def _error(field: str, expected: str, got: object) -> WireError:
    return WireError("message", field, expected, str(got))


def decode(data: Data) -> PoseMessage | SpeechMessage:
    """The message in `data`. Its arrays are copies. Values are not judged here: the jitter buffer does that.

    Raises WireError, and nothing else, where `data` is not one whole message.
    """
    if not HEADER_BYTES <= len(data) <= MAX_BYTES:
        raise _error("length", f"{HEADER_BYTES} to {MAX_BYTES} bytes", f"{len(data)} bytes")
    magic, version, kind, flags, session, sequence, capture_ns = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _error("magic", MAGIC.decode(), magic.hex(" "))
    if version != VERSION:
        raise _error("version", str(VERSION), version)
    if kind == POSE:
        return _decode_pose(data, flags, session, sequence, capture_ns)
    if kind == SPEECH:
        return _decode_speech(data, flags, session, sequence, capture_ns)
    raise _error("kind", f"{POSE} (pose) or {SPEECH} (speech)", kind)


def encode(message: PoseMessage | SpeechMessage) -> bytes:
    """`message` as bytes. Raises WireError where it does not fit the format."""
    buffer = bytearray(MAX_BYTES)
    return bytes(buffer[: encode_into(buffer, message)])


def encode_into(buffer: bytearray, message: PoseMessage | SpeechMessage) -> int:
    """Write `message` to the front of `buffer` (at least MAX_BYTES long) and return its length in bytes."""
    if isinstance(message, SpeechMessage):
        return _encode_speech(buffer, message)
    flags, at = 0, HEADER_BYTES
    for flag, name, size in PARTS:
        array = getattr(message, name)
        if array is None:
            continue
        if array.shape != (size,):
            raise _error(name, f"shape ({size},)", f"shape {array.shape}")
        flags |= flag
        at = _put(buffer, at, name, array, _FLOAT)
    if message.betas is not None:
        flags |= HAS_BETAS
        at = _put_counted(buffer, at, "betas", message.betas, _FLOAT, MAX_BETAS)
    if not flags:
        raise _error("flags", "pose, expression, transl or betas", "none of them")
    _put_header(buffer, POSE, flags, message)
    return at


def _encode_speech(buffer: bytearray, message: SpeechMessage) -> int:
    at = _put_counted(buffer, HEADER_BYTES, "samples", message.samples, _SAMPLE, MAX_SAMPLES)
    _put_header(buffer, SPEECH, 0, message)
    return at


def _put_header(buffer: bytearray, kind: int, flags: int, message: PoseMessage | SpeechMessage) -> None:
    try:
        _HEADER.pack_into(buffer, 0, MAGIC, VERSION, kind, flags, message.session, message.sequence, message.capture_ns)
    except struct.error as error:
        raise _error("header", "u32 session and sequence, i64 capture time", error) from None


def _put(buffer: bytearray, at: int, name: str, array: np.ndarray, dtype: np.dtype) -> int:
    end = at + array.size * dtype.itemsize
    if end > MAX_BYTES:
        raise _error(name, f"a message of at most {MAX_BYTES} bytes", f"{end} bytes")
    np.frombuffer(buffer, dtype, array.size, at)[:] = array
    return end


def _put_counted(buffer: bytearray, at: int, name: str, array: np.ndarray, dtype: np.dtype, most: int) -> int:
    if array.ndim != 1 or not 1 <= len(array) <= most:
        raise _error(name, f"1 to {most} values", f"shape {array.shape}")
    end = _put(buffer, at + _COUNT.size, name, array, dtype)
    _COUNT.pack_into(buffer, at, len(array))
    return end


def _decode_pose(data: Data, flags: int, session: int, sequence: int, capture_ns: int) -> PoseMessage:
    if not 0 < flags <= HAS_POSE | HAS_EXPRESSION | HAS_TRANSL | HAS_BETAS:
        raise _error("flags", "1 to 15", flags)
    parts = [(name, size) for flag, name, size in PARTS if flags & flag]
    end = HEADER_BYTES + _FLOAT.itemsize * sum(size for _, size in parts)
    count = _read_count(data, end, "betas", MAX_BETAS) if flags & HAS_BETAS else 0
    _check_length(data, end + (_COUNT.size + _FLOAT.itemsize * count if count else 0))
    arrays: dict[str, np.ndarray] = {}
    at = HEADER_BYTES
    for name, size in parts:
        arrays[name] = np.frombuffer(data, _FLOAT, size, at).astype(np.float32)
        at += _FLOAT.itemsize * size
    if count:
        arrays["betas"] = np.frombuffer(data, _FLOAT, count, at + _COUNT.size).astype(np.float32)
    return PoseMessage(session, sequence, capture_ns, **arrays)


def _decode_speech(data: Data, flags: int, session: int, sequence: int, capture_ns: int) -> SpeechMessage:
    if flags:
        raise _error("flags", "0 in a speech message", flags)
    count = _read_count(data, HEADER_BYTES, "samples", MAX_SAMPLES)
    start = HEADER_BYTES + _COUNT.size
    _check_length(data, start + _SAMPLE.itemsize * count)
    return SpeechMessage(session, sequence, capture_ns, np.frombuffer(data, _SAMPLE, count, start).astype(np.int16))


def _read_count(data: Data, at: int, name: str, most: int) -> int:
    if len(data) < at + _COUNT.size:
        raise _error(name, f"a count at byte {at}", f"a message of {len(data)} bytes")
    count = int(_COUNT.unpack_from(data, at)[0])
    if not 1 <= count <= most:
        raise _error(name, f"a count of 1 to {most}", count)
    return count


def _check_length(data: Data, expected: int) -> None:
    if len(data) != expected:
        raise _error("length", f"{expected} bytes for these flags and counts", f"{len(data)} bytes")
