"""The real show with an engine of fake stages: sound and pictures in step, sources that change, trouble, stopping."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise

import aiohttp
import numpy as np
import pytest
import structlog
from aiohttp.test_utils import TestServer
from fakes import FakeEngine, FakeStage, pose_frame
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.gear import OWN, Gear
from engine.pose import PoseClip
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from engine.work import Work
from streaming.clock import MS, NS
from streaming.governor import Budget, Governor, Hysteresis
from streaming.jitter import JitterBuffer
from streaming.live_show import STEP_NS, LiveShow, towards
from streaming.messages import SAMPLE_RATE, PoseMessage, SpeechMessage
from streaming.motion import AWAY_NS, Motion
from streaming.opening import open_show
from streaming.server import build_app
from streaming.settings import Settings
from streaming.sources.file import Player
from streaming.sources.wire import encode

TICK_NS = 40 * MS
SOUND_NS = 20 * MS
EVENTS = (0.6, 1.4, 2.2)  # seconds into the clip at which the mouth opens and a beep sounds, for a fifth of a second


@dataclass
class Painter(FakeStage):
    """A white picture while the mouth is open, a black one while it is closed."""

    def __call__(self, work: Work) -> list[Work]:
        work.condition = work.image = np.full((64, 64, 3), 255 if work.frame.expression[0] > 1.5 else 0, np.uint8)
        return super().__call__(work)


@dataclass
class PainterEngine(FakeEngine):
    """Takes about 60 ms a frame, in three threads."""

    stages: list[FakeStage] = field(
        default_factory=lambda: [FakeStage("condition", 0.02), Painter("denoise", 0.025), FakeStage("decode", 0.015)]
    )
    burst: int = 1


def is_event(seconds: np.ndarray) -> np.ndarray:
    return np.any([(seconds >= at) & (seconds < at + 0.2) for at in EVENTS], axis=0)


def flash_and_beep(loop: bool = False) -> Player:
    """Three seconds in which the mouth opens whenever a beep sounds."""
    times = np.arange(75) / 25
    expressions = np.zeros((75, EXPRESSION_DIMS), np.float32)
    expressions[:, 0] = 3.0 * is_event(times)
    clip = PoseClip(25, np.zeros((75, POSE_DIMS), np.float32), expressions, np.zeros((75, 3), np.float32))
    seconds = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    speech = 12_000 * np.sin(2 * np.pi * 1000 * seconds) * is_event(seconds)
    return Player(clip, speech.astype(np.int16), loop=loop)


def make_show(player: Player | None = None, **rest: object) -> LiveShow:
    return LiveShow(PainterEngine, 25.0, player=player, avatar="painter", source="flash", sound="beep", **rest)  # type: ignore[arg-type]


async def watch(show: LiveShow, seconds: float) -> tuple[list[float], list[float]]:
    """When flashes and beeps begin, as a server would send them, in seconds on the monotonic clock."""
    flashes, beeps, bright, heard = [], [], False, []
    start_ns = time.monotonic_ns()
    for tick in range(round(seconds * NS / SOUND_NS)):
        play_ns = start_ns + tick * SOUND_NS
        await asyncio.sleep(max(0, play_ns - time.monotonic_ns()) / NS)
        if tick % 2 == 0 and (shown := show.take(play_ns)) is not None:
            white = shown.picture.image[0, 0, 0] > 127
            flashes += [play_ns / NS] if white and not bright else []
            bright = white
        heard.append(np.abs(show.sound(960, play_ns)) > 2000)
    loud = np.flatnonzero(np.concatenate(heard))
    begins = loud[np.diff(loud, prepend=-SAMPLE_RATE) > SAMPLE_RATE // 10]
    beeps = [start_ns / NS + first / SAMPLE_RATE for first in begins]
    return flashes, beeps


async def test_sound_and_pictures_meet() -> None:
    show = make_show(flash_and_beep(loop=True))
    await show.start()
    flashes, beeps = await watch(show, 6.0)
    await show.stop()
    offsets = sorted(flash - min(beeps, key=lambda beep: abs(beep - flash)) for flash in flashes)
    # A tick and a half. Pictures may be late where the machine is busy, never early, and not all of them.
    assert len(offsets) >= 4 and offsets[0] > -0.06 and offsets[1] < 0.06, offsets
    status = show.status()
    assert status.delay_ns >= 60 * MS and set(status.stage_ns) == {"condition", "denoise", "decode"}


@given(st.integers(0, 10**15), st.integers(0, 10**15), st.sampled_from([16_666_667, 33_333_333, TICK_NS]))
def test_poses_are_sampled_in_step_with_the_ticks(shown_ns: int, play_ns: int, period_ns: int) -> None:
    for _ in range(period_ns // STEP_NS):
        step = towards(shown_ns, play_ns, period_ns)
        assert abs(step) <= STEP_NS
        shown_ns += period_ns + step
    off = (shown_ns - play_ns) % period_ns
    assert min(off, period_ns - off) == 0


async def test_an_engine_that_cannot_start_is_told() -> None:
    def prepare() -> FakeEngine:
        raise InputError("anchor/body.onnx", "graph", "opset 23", "opset 7")

    server = TestServer(build_app(LiveShow(prepare, 25.0), Settings()))
    await server.start_server()
    async with aiohttp.ClientSession() as client:
        for _ in range(100):
            async with client.get(server.make_url("/readyz")) as response:
                if (await response.text()).strip() != "starting":
                    break
            await asyncio.sleep(0.02)
        assert (response.status, (await response.text()).strip()) == (503, "failed")
        async with client.get(server.make_url("/stats")) as response:
            assert (await response.json())["trouble"] == "anchor/body.onnx: graph: expected opset 23, got opset 7"
    await server.close()


async def test_it_stops_while_the_engine_still_loads() -> None:
    go_on, loaded = threading.Event(), threading.Event()

    def load() -> PainterEngine:
        go_on.wait(30)
        loaded.set()
        return PainterEngine()

    show = LiveShow(load, 25.0)
    await show.start()
    await asyncio.sleep(0.05)
    await show.stop()
    assert not loaded.is_set()  # it did not wait for the engine
    go_on.set()
    await make_show().stop()  # never started


@dataclass
class Geared(FakeStage):
    """Takes long in the engine's own gear, where `laden`; in every other it leaves the frame out."""

    laden: bool = True

    def __call__(self, work: Work) -> list[Work]:
        if work.gear == OWN:
            time.sleep(0.15 * self.laden)
        else:
            work.skipped += (self.name,)
        return super().__call__(work)


async def test_the_governor_goes_down_where_it_is_too_much_and_up_again_and_nothing_of_it_is_silent() -> None:
    rules = Hysteresis(window_ns=NS // 2, down_after_ns=NS // 5, dwell_ns=NS // 2, up_after_ns=NS // 2, hold_ns=3 * NS)
    stage = Geared("denoise")
    governor = Governor(Budget(10 * NS, 20.0), (OWN, Gear(face_every=0)), rules)
    show = LiveShow(
        lambda: FakeEngine([FakeStage("condition"), stage]),
        25.0,
        player=flash_and_beep(loop=True),
        governor=governor,
    )
    server = TestServer(build_app(show, Settings()))
    with structlog.testing.capture_logs() as logs:
        await server.start_server()
        async with aiohttp.ClientSession() as client:
            for _ in range(200):
                await asyncio.sleep(0.05)
                async with client.get(server.make_url("/stats")) as response:
                    stats = await response.json()
                if stats["skips"]:
                    break
            async with client.get(server.make_url("/metrics")) as response:
                metrics = await response.text()
        stage.laden = False
        for _ in range(400):
            await asyncio.sleep(0.05)
            if (status := show.status().governor) is not None and status.rung == 0:
                break
        await server.close()
    governed = stats["governor"]
    assert (governed["rung"], governed["rungs"], governed["gear"]) == (1, 2, "no face")
    assert governed["decisions"] == {"down": 1, "up": 0}
    assert (governed["last"]["direction"], governed["last"]["from"], governed["last"]["to"]) == ("down", 0, 1)
    assert "too few pictures" in governed["last"]["reason"] and governed["last"]["ago_s"] >= 0
    down, up = (entry for entry in logs if entry["event"].startswith("governor goes"))
    assert (down["rung"], down["gear"], down["reason"]) == (1, "no face", governed["last"]["reason"])
    assert (up["rung"], up["from_rung"], up["gear"]) == (0, 1, "own") and "clearly inside" in up["reason"]
    assert stats["skips"]["denoise"] > 0 and 'liveanchor_skips_total{stage="denoise"}' in metrics
    assert "liveanchor_governor_rung 1.0" in metrics
    assert 'liveanchor_governor_decisions_total{direction="down"} 1.0' in metrics
    assert 'liveanchor_governor_decisions_total{direction="up"} 0.0' in metrics


async def test_without_a_governor_everything_is_in_the_engines_own_gear() -> None:
    show = LiveShow(
        lambda: FakeEngine([FakeStage("condition"), Geared("denoise")]), 25.0, player=flash_and_beep(loop=True)
    )
    await show.start()
    for _ in range(200):
        await asyncio.sleep(0.02)
        if len(show.status().stage_ns):
            break
    status = show.status()
    await show.stop()
    assert status.stage_ns and status.governor is None and status.skips == {}


def test_a_show_is_governed_where_it_is_asked_for_and_only_there() -> None:
    assert open_show(Settings()).status().governor is None
    show = open_show(Settings(govern=True, delay_budget_ms=120, fps_budget=20))
    status = show.status().governor
    assert status is not None and (status.rung, status.gear, status.over) == (0, OWN, "") and status.rungs > 2


# -- sources


async def test_live_motion_and_voice_take_over() -> None:
    show = make_show(flash_and_beep(loop=True), udp=("127.0.0.1", 0))
    await show.start()
    beep = (9000 * np.sin(np.arange(480) / 5)).astype(np.int16)
    await asyncio.sleep(0.3)
    assert show.status().source == "flash"
    heard = []
    for i in range(75):
        now_ns = time.monotonic_ns()
        show.intake.feed(encode(PoseMessage.of(pose_frame(now_ns, 1), 7, i)))
        for part in range(2):
            show.intake.feed(encode(SpeechMessage(7, 2 * i + part, now_ns + part * 10 * MS, beep)))
        await asyncio.sleep(0.02)
        show.take(now_ns)
        heard.append(show.sound(960, now_ns))
    assert show.status().source == "live motion capture" and show.status().live
    assert np.abs(np.concatenate(heard[-20:])).max() > 5000
    show.intake.feed(b"nonsense")
    assert show.status().drops["message: length"] == 1
    await show.stop()


def joint_speed(frames: list[np.ndarray], seconds: float) -> float:
    return float(max(np.abs(b - a).max() for a, b in pairwise(frames)) / seconds)


@pytest.mark.parametrize("turn", [0.5, 1.2])
def test_motion_changes_source_without_a_jump(turn: float) -> None:
    """From the clip to a performer in another pose, who then falls silent, and back to the clip."""
    jitter = JitterBuffer()
    motion = Motion(jitter, flash_and_beep(loop=True))
    elsewhere = np.zeros(POSE_DIMS, np.float32)
    elsewhere[[50, 53]] = turn
    frames, live, moving = [], [], []
    for tick in range(400):
        now_ns = tick * TICK_NS
        if 2 * NS <= now_ns < 6 * NS:
            zeros = np.zeros(EXPRESSION_DIMS, np.float32), np.zeros(3, np.float32)
            jitter.push(PoseMessage(1, tick, now_ns, elsewhere, *zeros), now_ns)
        frame = motion.frame(now_ns)
        assert frame is not None
        frames.append(frame.pose)
        live.append(motion.from_live)
        moving.append(motion.moving(now_ns))
    changes = [tick * TICK_NS / NS for tick in range(1, 400) if live[tick] != live[tick - 1]]
    assert len(changes) == 2 and changes[0] < 2.2
    assert AWAY_NS / NS + 6 < changes[1] < AWAY_NS / NS + 8
    assert np.abs(frames[140] - elsewhere).max() < 1e-5
    assert joint_speed(frames, TICK_NS / NS) < 8  # radians a second: a quick move, not a jump
    assert moving[140] and not moving[int(8 * NS / TICK_NS)] and moving[399]


def test_motion_without_a_clip_waits_and_stays() -> None:
    jitter = JitterBuffer()
    motion = Motion(jitter, None)
    assert motion.frame(0) is None and not motion.moving(0)
    for tick in range(50):
        jitter.push(PoseMessage.of(pose_frame(tick * TICK_NS), 1, tick), tick * TICK_NS)
        motion.frame(tick * TICK_NS)
    assert motion.from_live and motion.moving(50 * TICK_NS)
    assert motion.frame(60 * NS) is not None and motion.from_live  # idle, for there is nothing else
    assert not motion.moving(60 * NS)
