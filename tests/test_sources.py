"""Sources with real sockets: good messages arrive, bad ones are counted. The player: pace, seam, speech."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import aiohttp
import av
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiortc import RTCDataChannel, RTCPeerConnection
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clips import write_clip
from engine.errors import InputError
from engine.pose import PoseClip, PoseFrame
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from streaming.clock import MS, NS, FakeClock, MonotonicClock
from streaming.jitter import JitterBuffer
from streaming.messages import SAMPLE_RATE, PoseMessage, SpeechMessage
from streaming.sources import datachannel, udp
from streaming.sources.file import Player, open_player, play
from streaming.sources.intake import Intake
from streaming.sources.websocket import MAX_MESSAGE, PoseSockets
from streaming.sources.wire import encode


def good(sequence: int = 0, capture_ns: int = 0) -> bytes:
    return encode(PoseMessage(1, sequence, capture_ns, pose=np.full(POSE_DIMS, 0.1, np.float32)))


def speech(capture_ns: int = 0) -> bytes:
    return encode(SpeechMessage(1, 0, capture_ns, np.arange(480, dtype=np.int16)))


def rubbish(count: int) -> list[bytes]:
    """Noise, good heads with noise behind, good messages cut short or with a byte changed. None is valid."""
    random, out = np.random.default_rng(3), []
    for i in range(count):
        noise = random.bytes(int(random.integers(0, 1400)))
        whole = good()
        at = int(random.integers(0, 8))
        changed = whole[:at] + bytes([whole[at] ^ int(random.integers(1, 256))]) + whole[at + 1 :]
        out.append([noise, whole[:24] + noise, whole[: int(random.integers(0, 600))], changed][i % 4])
    return [data for data in out if data != whole]


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.005)


def intake(heard: list[tuple[np.ndarray, int]] | None = None) -> Intake:
    on_speech = None if heard is None else lambda samples, capture_ns: heard.append((samples, capture_ns))
    return Intake(JitterBuffer(), MonotonicClock(), on_speech)


# -- the intake -------------------------------------------------------------------------------------------------------


def test_the_intake_sorts_poses_speech_and_rubbish() -> None:
    heard: list[tuple[np.ndarray, int]] = []
    door = Intake(JitterBuffer(), FakeClock(5 * NS), lambda samples, capture_ns: heard.append((samples, capture_ns)))
    assert not door.feed(speech())  # its sender has sent no pose yet
    assert door.feed(good(0, 7 * NS)) and door.feed(speech(7 * NS + 10 * MS))
    assert not door.feed(b"rubbish") and not door.feed("text") and not door.feed(good()[:-1])
    assert heard[0][1] == 5 * NS + 10 * MS and len(heard[0][0]) == 480
    counters = door.counters
    assert (counters.poses, counters.speech, counters.unheard) == (1, 1, 1)
    assert counters.malformed == {"length": 2, "type": 1}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=1300) | st.text(max_size=20), max_size=5))
def test_nothing_makes_the_intake_raise(messages: list[bytes | str]) -> None:
    door = intake()
    for message in messages:
        door.feed(message)


# -- sockets ----------------------------------------------------------------------------------------------------------


async def test_udp_survives_two_thousand_random_datagrams_and_takes_a_good_one() -> None:
    heard: list[tuple[np.ndarray, int]] = []
    door = intake(heard)
    source = await udp.listen("127.0.0.1", 0, door.feed)
    sent = rubbish(2000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(source.address)
        for i, data in enumerate(sent):
            sender.send(data)
            if i % 20 == 19:
                await until(lambda i=i: door.counters.malformed.total() == i + 1)  # type: ignore[misc]
        sender.send(good())
        sender.send(speech())
        await until(lambda: len(heard) == 1)
    assert door.counters.malformed.total() == len(sent) and door.counters.poses == 1
    assert door.jitter.sample(time.monotonic_ns() + NS) is not None
    source.close()


async def test_a_taken_udp_port_is_told_in_one_line() -> None:
    source = await udp.listen("127.0.0.1", 0, intake().feed)
    with pytest.raises(InputError) as error:
        await udp.listen("127.0.0.1", source.address[1], intake().feed)
    assert "in use" in str(error.value) and "\n" not in str(error.value)
    source.close()


async def websocket_client(
    door: Intake, most: int = 8
) -> tuple[TestClient[web.Request, web.Application], Callable[[], Awaitable[aiohttp.ClientWebSocketResponse]]]:
    app = web.Application()
    PoseSockets(door.feed, most).install(app, "/pose")
    client = TestClient(TestServer(app))
    await client.start_server()

    async def connect() -> aiohttp.ClientWebSocketResponse:
        return await client.ws_connect("/pose")

    return client, connect


async def test_websocket_survives_two_thousand_random_messages_and_takes_a_good_one() -> None:
    heard: list[tuple[np.ndarray, int]] = []
    door = intake(heard)
    client, connect = await websocket_client(door)
    async with client:
        connection = await connect()
        sent = rubbish(2000)
        for data in sent:
            await connection.send_bytes(data)
        await connection.send_str("hello")
        await connection.send_bytes(good())
        await connection.send_bytes(speech())
        await until(lambda: len(heard) == 1)
        assert door.counters.malformed.total() == len(sent) + 1 and door.counters.poses == 1
        await connection.close()


async def test_a_huge_websocket_message_ends_that_connection_only() -> None:
    door = intake()
    client, connect = await websocket_client(door)
    async with client:
        greedy, other = await connect(), await connect()
        await greedy.send_bytes(bytes(MAX_MESSAGE + 1))
        assert (await greedy.receive()).type is aiohttp.WSMsgType.CLOSE
        await other.send_bytes(good())
        await until(lambda: door.counters.poses == 1)


async def test_one_sender_too_many_is_sent_away() -> None:
    client, connect = await websocket_client(intake(), most=1)
    async with client:
        first, second = await connect(), await connect()
        message = await second.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE and message.data == 1013
        await first.close()
        await asyncio.sleep(0.05)
        third = await connect()
        with pytest.raises(asyncio.TimeoutError):
            await third.receive(timeout=0.1)


async def test_a_data_channel_feeds_the_same_door() -> None:
    door = intake()
    sender, receiver = RTCPeerConnection(), RTCPeerConnection()

    def opened(channel: RTCDataChannel) -> None:
        datachannel.attach(channel, door.feed)

    receiver.on("datachannel", opened)
    channel = sender.createDataChannel("pose", ordered=False, maxRetransmits=0)
    try:
        await sender.setLocalDescription(await sender.createOffer())
        await receiver.setRemoteDescription(sender.localDescription)
        await receiver.setLocalDescription(await receiver.createAnswer())
        await sender.setRemoteDescription(receiver.localDescription)
        await until(lambda: channel.readyState == "open")
        for data in (b"rubbish", "text", good()):
            channel.send(data)
        await until(lambda: door.counters.poses == 1 and door.counters.malformed.total() == 2)
    finally:
        await sender.close()
        await receiver.close()


# -- files ------------------------------------------------------------------------------------------------------------


def clip(frames: int = 60, fps: float = 30.0) -> PoseClip:
    """A head that turns steadily, so that the end is far from the beginning."""
    poses = np.zeros((frames, POSE_DIMS), np.float32)
    poses[:, 45] = np.linspace(-0.5, 0.5, frames)
    return PoseClip(fps, poses, np.zeros((frames, EXPRESSION_DIMS), np.float32), np.zeros((frames, 3), np.float32))


def test_the_player_gives_the_clip_at_its_own_pace() -> None:
    start, player = 3 * NS, Player(clip(), None, 3 * NS, loop=False)
    for i in (0, 7, 30, 59):
        frame = player.frame(start + round(i * NS / 30))
        np.testing.assert_allclose(frame.pose, player.clip.poses[i], atol=1e-6)
    middle = player.frame(start + round(7.5 * NS / 30))
    assert middle.pose[45] == pytest.approx((player.clip.poses[7, 45] + player.clip.poses[8, 45]) / 2, abs=1e-6)
    assert middle.time_ns == start + round(7.5 * NS / 30)
    assert not player.ended(start + NS) and player.ended(start + 2 * NS)
    np.testing.assert_array_equal(player.frame(start + 9 * NS).pose, player.clip.poses[-1])


@pytest.mark.parametrize("seconds", [None, 1.0, 2.3])
def test_a_loop_has_no_jump_at_its_seam(seconds: float | None) -> None:
    voice = None if seconds is None else np.zeros(round(seconds * SAMPLE_RATE), np.int16)
    player = Player(clip(), voice)
    nods = [float(player.frame(t).pose[45]) for t in range(0, 7 * NS, 20 * MS)]
    assert max(abs(b - a) for a, b in pairwise(nods)) < 0.08  # cut, it would jump by 1.0
    assert player.frame(player.period_ns).pose[45] == pytest.approx(-0.5, abs=1e-4)
    assert player.frame(player.period_ns + NS // 2).pose[45] == pytest.approx(player.frame(NS // 2).pose[45], abs=1e-4)


def test_speech_comes_in_order_without_holes_through_the_loops() -> None:
    voice = np.arange(2 * SAMPLE_RATE, dtype=np.int64).astype(np.int16)
    player, got = Player(clip(), voice, start_ns=NS), []
    for now in range(0, 8 * NS, 33 * MS):
        for samples, capture_ns in player.speech(now):
            assert capture_ns + len(samples) * NS // SAMPLE_RATE <= now < capture_ns + NS
            got.append((samples, capture_ns))
    for (a, at), (_, then) in pairwise(got):
        assert abs(then - at - len(a) * NS // SAMPLE_RATE) <= 1
    heard = np.concatenate([samples for samples, _ in got])
    np.testing.assert_array_equal(heard[300 : 2 * SAMPLE_RATE - 300], voice[300:-300])
    np.testing.assert_array_equal(heard[2 * SAMPLE_RATE : 4 * SAMPLE_RATE], heard[: 2 * SAMPLE_RATE])
    assert heard[0] == heard[2 * SAMPLE_RATE - 1] == 0  # faded at the seam


def test_speech_that_nobody_asked_for_in_time_is_left_out() -> None:
    player = Player(clip(), np.ones(2 * SAMPLE_RATE, np.int16))
    player.speech(100 * MS)
    given = player.speech(3600 * NS)
    assert 0.9 * NS < sum(len(s) for s, _ in given) * NS / SAMPLE_RATE <= 1.05 * NS
    assert all(t >= 3598.9 * NS for _, t in given)


def write_sound(path: Path, codec: str, layout: str, rate: int) -> None:
    seconds = 1.2
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        tone = (0.3 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone[None], format="flt", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, layout, rate, frame_size=stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "codec", "layout", "rate"),
    [
        ("a.wav", "pcm_f32le", "mono", 44_100),
        ("a.wav", "pcm_s16le", "stereo", 16_000),
        ("a.opus", "libopus", "mono", 48_000),
    ],
)
def test_a_player_opens_clip_and_sound_files(tmp_path: Path, name: str, codec: str, layout: str, rate: int) -> None:
    write_clip(tmp_path / "clip.npz", clip())
    write_sound(tmp_path / name, codec, layout, rate)
    player = open_player(tmp_path / "clip.npz", tmp_path / name, 0)
    assert len(player.clip) == 60 and abs(len(player.voice) - 1.2 * SAMPLE_RATE) < 0.05 * SAMPLE_RATE
    crossings = np.count_nonzero(np.diff(np.signbit(player.voice[4800:52_800])))
    assert abs(crossings - 600) <= 4  # 300 Hz for a second
    assert 6500 < np.abs(player.voice).max() < 12_000


async def test_playing_keeps_an_absolute_schedule_and_ends_with_the_clip() -> None:
    frames: list[PoseFrame] = []
    pieces: list[int] = []
    player = Player(clip(30), np.ones(SAMPLE_RATE, np.int16), MonotonicClock().now_ns(), loop=False)
    await play(player, MonotonicClock(), 50.0, frames.append, lambda s, t: pieces.append(t))
    times = [f.time_ns - player.start_ns for f in frames]
    assert all(t % (20 * MS) == 0 for t in times) and times == sorted(set(times)) and len(times) >= 10
    assert len(pieces) >= 45
