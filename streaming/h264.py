"""A word about the picture inside an H.264 stream: user data (SEI) before a keyframe. Pure: bytes in, bytes out.

Decoders pass over what they do not know, and whoever stores the stream as it is keeps it.
"""

from __future__ import annotations

import re
from uuid import UUID

SEI = 6  # nal_unit_type of supplemental enhancement information (H.264 table 7-1)
USER_DATA_UNREGISTERED = 5  # payloadType (H.264 annex D)
_START = b"\x00\x00\x00\x01"
_IDR_SLICE = re.compile(rb"\x00?\x00\x00\x01[\x25\x45\x65]")  # nal_unit_type 5; nal_ref_idc of an IDR slice is 1 to 3


def user_data(name: UUID, payload: bytes) -> bytes:
    """A NAL unit of SEI with start code, which holds user data by the `name` of whoever defines it (H.264 annex D)."""
    size = 16 + len(payload)
    message = bytes([USER_DATA_UNREGISTERED]) + b"\xff" * (size // 255) + bytes([size % 255]) + name.bytes + payload
    return _START + bytes([SEI]) + _escaped(message + b"\x80")  # the stop bit ends the message


def before_picture(access_unit: bytes, nal: bytes) -> bytes:
    """`access_unit` (Annex B) with `nal` after its parameter sets, before its first IDR slice; the same where it has none."""
    first = _IDR_SLICE.search(access_unit)
    if first is None:
        return access_unit
    return access_unit[: first.start()] + nal + access_unit[first.start() :]


def _escaped(payload: bytes) -> bytes:
    """No start code within: a 3 after two zeros wherever a byte from 0 to 3 follows (H.264 7.4.1)."""
    return re.sub(rb"\x00\x00(?=[\x00-\x03])", b"\x00\x00\x03", payload)
