"""What pictures carry about themselves: read back by a decoder, an XML parser, and byte by byte."""

from __future__ import annotations

import json
import re
from typing import get_args
from uuid import UUID
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.avatar import Person
from streaming import h264, provenance
from streaming.webrtc.encoder import Encoded, VideoEncoder

PEOPLE = get_args(Person)


def said(frame: av.VideoFrame) -> list[dict[str, str]]:
    """The facts that a decoded picture came with."""
    notes = [bytes(data) for data in frame.side_data if data.type.name == "SEI_UNREGISTERED"]
    own = [note for note in notes if note.startswith(provenance.USER_DATA.bytes)]  # x264 leaves a note as well
    return [json.loads(note[16:]) for note in own]


def digital_source_type(packet: str) -> str:
    """The IPTC property of an XMP packet."""
    place = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    (description,) = ElementTree.fromstring(packet).iter(place)
    return description.attrib["{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"]


def encoded(codec: str, mark: bytes, keyframes: set[int]) -> list[Encoded]:
    """Ten noisy pictures, of which some are asked to be keyframes."""
    rng = np.random.default_rng(3)
    encoder = VideoEncoder(codec, 64, 64, 25.0, 1_000_000)  # type: ignore[arg-type]
    pictures = (rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(10))
    made = [encoder.encode(picture, 3600 * i, i in keyframes, mark) for i, picture in enumerate(pictures)]
    return [packet for packet in made if packet is not None]


def decoded(packets: list[Encoded], codec: str) -> list[av.VideoFrame]:
    context = av.CodecContext.create(codec, "r")
    frames = [frame for packet in packets for frame in context.decode(av.Packet(packet.data))]
    return frames + context.decode(None)


@pytest.mark.parametrize("person", PEOPLE)
def test_every_keyframe_of_h264_says_what_it_is(person: Person) -> None:
    mark = provenance.user_data(person)
    assert len(mark) < 200
    marked, plain = (encoded("h264", nal, {0, 6}) for nal in (mark, b""))
    assert [packet.keyframe for packet in marked] == [i in (0, 6) for i in range(10)]
    assert [len(a.data) - len(b.data) for a, b in zip(marked, plain, strict=True)] == [
        len(mark) if packet.keyframe else 0 for packet in marked
    ]
    frames, others = decoded(marked, "h264"), decoded(plain, "h264")
    assert [said(frame) for frame in frames] == [[provenance.facts(person)] if i in (0, 6) else [] for i in range(10)]
    for frame, other in zip(frames, others, strict=True):
        assert np.array_equal(frame.to_ndarray(), other.to_ndarray())


def test_vp8_is_left_as_it_is() -> None:
    packets = encoded("vp8", provenance.user_data("synthetic"), {0})
    assert not [packet for packet in packets if provenance.USER_DATA.bytes in packet.data]
    assert len(decoded(packets, "vp8")) == 10


@given(st.binary(max_size=600).map(lambda data: data.replace(b"\x05", b"\x00")))  # many zeros
def test_user_data_comes_back_and_imitates_no_start_code(payload: bytes) -> None:
    nal = h264.user_data(UUID(int=0), payload)
    start, kind, rest = nal[:4], nal[4], nal[5:]
    assert (start, kind) == (b"\x00\x00\x00\x01", h264.SEI)
    assert not any(bytes([0, 0, low]) in rest for low in range(3))
    message = re.sub(rb"\x00\x00\x03", b"\x00\x00", rest)  # as a decoder reads it (H.264 7.3.1)
    full = len(message[1:]) - len(message[1:].lstrip(b"\xff"))
    size = 255 * full + message[1 + full]
    assert message[0] == h264.USER_DATA_UNREGISTERED
    assert message[2 + full :] == bytes(16) + payload + b"\x80"
    assert size == 16 + len(payload)


def test_user_data_stands_between_parameters_and_picture() -> None:
    sets, first, second = b"\0\0\0\1\x67sps\0\0\0\1\x68pps", b"\0\0\1\x65first", b"\0\0\1\x65second"
    assert h264.before_picture(sets + first + second, b"NAL") == sets + b"NAL" + first + second
    assert h264.before_picture(sets + b"\0\0\1\x41later", b"NAL") == sets + b"\0\0\1\x41later"


@pytest.mark.parametrize("person", PEOPLE)
def test_xmp_is_read_by_others(person: Person) -> None:
    packet = provenance.xmp(person)
    assert digital_source_type(packet) == provenance.SOURCE_TYPE
    assert provenance.statement(person) in "".join(ElementTree.fromstring(packet).itertext())
    assert "generated" in provenance.statement(person)


def test_nobody_is_told_the_same_of_an_invented_a_real_and_an_unknown_person() -> None:
    assert len({provenance.statement(person) for person in PEOPLE}) == len(PEOPLE)
    assert len({provenance.user_data(person) for person in PEOPLE}) == len(PEOPLE)
