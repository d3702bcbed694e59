"""Replaying a clip into a server: the schedule, both transports, lost connections, and errors of one line."""

from __future__ import annotations

import asyncio
import socket
import time

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from engine.errors import InputError
from engine.pose import PoseClip
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from streaming import sender
from streaming.clock import NS, MonotonicClock
from streaming.jitter import JitterBuffer
from streaming.messages import SAMPLE_RATE, PoseMessage, SpeechMessage
from streaming.sender import CHUNK, Progress, connect, script, send
from streaming.sources import udp
from streaming.sources.intake import Intake
from streaming.sources.websocket import PoseSockets


def clip(frames: int, fps: float = 30.0) -> PoseClip:
    poses = np.random.default_rng(0).normal(0, 0.2, (frames, POSE_DIMS)).astype(np.float32)
    still = np.zeros((frames, 3), np.float32)
    return PoseClip(fps, poses, np.zeros((frames, EXPRESSION_DIMS), np.float32), still, np.ones(300, np.float32))


def tone(seconds: float) -> np.ndarray:
    return np.full(round(seconds * SAMPLE_RATE), 1000, np.int16)


async def until(true: object, seconds: float = 10.0) -> None:
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.01)


def test_the_script_has_every_frame_and_all_speech_at_its_time() -> None:
    motion, speech = clip(90), tone(3.0)
    events = list(script(motion, speech, 10 * NS, session=7))
    assert [due for due, _ in events] == sorted(due for due, _ in events)
    poses = [(due, m) for due, m in events if isinstance(m, PoseMessage)]
    spoken = [(due, m) for due, m in events if isinstance(m, SpeechMessage)]
    assert len(poses) == 90 and len(spoken) == 300
    for i, (due, message) in enumerate(poses):
        assert due == message.capture_ns == 10 * NS + round(i * NS / 30)
        assert message.session == 7 and message.sequence == i and message.pose is not None
        np.testing.assert_allclose(message.pose, motion.poses[i], atol=1e-5)
        assert (message.betas is not None) == (i % 30 == 0)
    for i, (due, piece) in enumerate(spoken):
        assert piece.sequence == i and piece.capture_ns == 10 * NS + i * CHUNK * NS // SAMPLE_RATE
        assert piece.capture_ns < due <= piece.capture_ns + 20_000_000
    assert sum(len(m.samples) for _, m in spoken) == len(speech)


def test_the_script_of_a_loop_goes_on_with_the_same_session() -> None:
    events = script(clip(30), tone(1.0), 0, session=1, loop=True)
    last_pose, last_speech = -1, -1
    for due, message in events:
        last = last_pose if isinstance(message, PoseMessage) else last_speech
        assert message.sequence == last + 1
        if isinstance(message, PoseMessage):
            last_pose += 1
        else:
            last_speech += 1
        if due > 3.5 * NS:
            break
    assert last_pose >= 104 and last_speech >= 340


async def test_a_clip_goes_over_udp_at_its_own_pace() -> None:
    heard: list[int] = []
    door = Intake(JitterBuffer(), MonotonicClock(), lambda samples, capture_ns: heard.append(len(samples)))
    source = await udp.listen("127.0.0.1", 0, door.feed)
    seen: list[float] = []
    begin = time.monotonic()
    target = f"udp://127.0.0.1:{source.address[1]}"
    progress = await send(clip(30), tone(1.0), target, on_progress=lambda p: seen.append(p.seconds))
    took = time.monotonic() - begin
    await until(lambda: door.counters.poses == progress.frames)
    assert progress.frames + progress.speech + progress.skipped == 130 and progress.of_seconds == pytest.approx(1.0)
    assert took > 0.95 and seen == sorted(seen) and len(seen) == progress.frames
    assert door.jitter.counters.refused == {} and door.counters.speech == len(heard)
    assert door.jitter.betas is not None and len(door.jitter.betas) == 16
    source.close()


async def test_a_lost_websocket_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "BACK_OFF_S", (0.05,))
    door, sockets = Intake(JitterBuffer(), MonotonicClock()), []
    inner = PoseSockets(door.feed)

    async def handle(request: web.Request) -> web.WebSocketResponse:
        sockets.append(request)
        return await inner.handle(request)

    app = web.Application()
    app.router.add_get("/pose", handle)
    server = TestServer(app)
    await server.start_server()
    task = asyncio.create_task(send(clip(30), None, f"ws://127.0.0.1:{server.port}", loop=True))
    await until(lambda: door.counters.poses > 5)
    transport = sockets[0].transport
    assert transport is not None
    transport.abort()
    before = door.counters.poses
    await until(lambda: len(sockets) == 2 and door.counters.poses > before + 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert door.jitter.counters.restarts == 0 and not door.counters.malformed
    await server.close()


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "BACK_OFF_S", (0.02,))
    monkeypatch.setattr(sender, "PATIENCE_S", 0.2)
    app = web.Application()
    door = Intake(JitterBuffer(), MonotonicClock())
    PoseSockets(door.feed).install(app, "/pose")
    server = TestServer(app)
    await server.start_server()
    task = asyncio.create_task(send(clip(30), None, f"ws://127.0.0.1:{server.port}/pose", loop=True))
    await until(lambda: door.counters.poses > 2)
    await server.close()
    with pytest.raises(InputError) as error:
        await asyncio.wait_for(task, 10)
    assert "a server that listens" in str(error.value)


@pytest.mark.parametrize("scheme", ["ws", "udp"])
async def test_a_refused_connection_is_told_in_one_line(scheme: str) -> None:
    kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError) as error:
        await send(clip(60), None, f"{scheme}://127.0.0.1:{port}/pose")
    line = str(error.value)
    assert "\n" not in line and str(port) in line and "liveanchor serve" in line
    assert "refused" in line.lower() or "connect" in line.lower()


async def test_a_server_without_that_page_is_told_in_one_line() -> None:
    server = TestServer(web.Application())
    await server.start_server()
    with pytest.raises(InputError) as error:
        await send(clip(3), None, f"ws://127.0.0.1:{server.port}/elsewhere")
    assert "HTTP 404" in str(error.value)
    await server.close()


@pytest.mark.parametrize(
    "target", ["http://localhost:1/pose", "udp://localhost", "nonsense", "ws://", "ws://a:bc/", ""]
)
def test_what_is_no_address_is_told_in_one_line(target: str) -> None:
    with pytest.raises(InputError) as error:
        connect(target, Progress(), MonotonicClock(), {})
    assert error.value.field == "address" and "\n" not in str(error.value)


async def test_an_unknown_host_is_told_in_one_line() -> None:
    for target in ("udp://no-such-host.invalid:9", f"ws://no-such-host.invalid:{unused_port()}/pose"):
        with pytest.raises(InputError) as error:
            await send(clip(3), None, target)
        assert "\n" not in str(error.value)
