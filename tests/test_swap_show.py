"""Seek and swap of a whole show, as a viewer sees and hears them, and as the numbers tell them."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from fake_show import FakeShow
from fakes import FakeEngine, FakeStage
from test_provenance import said

from engine.avatar import Avatar, bundled_avatar
from engine.errors import InputError
from engine.picture import Picture
from engine.pose import PoseClip
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from engine.work import Work
from streaming import provenance
from streaming.cast import Cast
from streaming.clock import MS, NS
from streaming.live_show import LiveShow
from streaming.messages import SAMPLE_RATE
from streaming.metrics import Meter
from streaming.opening import open_cast
from streaming.settings import Settings
from streaming.sources.file import Player
from streaming.webrtc.encoder import VideoEncoder
from streaming.webrtc.tracks import Outgoing, VideoFeed

TICK_NS, SOUND_NS = 40 * MS, 20 * MS


def speaking(seconds: float = 12.0) -> Player:
    """A clip whose mouth opens with the time, and a voice that is negative in the first half, positive in the second."""
    frames = round(seconds * 25)
    expressions = np.zeros((frames, EXPRESSION_DIMS), np.float32)
    expressions[:, 0] = np.arange(frames) / 25
    clip = PoseClip(25, np.zeros((frames, POSE_DIMS), np.float32), expressions, np.zeros((frames, 3), np.float32))
    half = np.full(round(seconds * SAMPLE_RATE) // 2, 5000, np.int16)
    return Player(clip, np.concatenate([-half, half]), loop=False)


def telling(colour: int = 0, size: int = 64) -> FakeEngine:
    """Paints the place in the clip in tenths of a second in the first channel, `colour` in the second.

    Takes 65 ms a frame: speech comes in chunks, and needs a delay of more than a few.
    """

    class Teller(FakeStage):
        def __call__(self, work: Work) -> list[Work]:
            work.image = work.condition = np.empty((size, size, 3), np.uint8)
            work.image[...] = (round(float(work.frame.expression[0]) * 10), colour, 0)
            return super().__call__(work)

    return FakeEngine([FakeStage("body", 0.035), Teller("denoise", 0.02), FakeStage("decode", 0.01)])


def a_show(another: Callable[[Path], Cast] | None = None, player: Player | None = None) -> LiveShow:
    return LiveShow(
        lambda: telling(1), 25.0, player=player or speaking(), avatar="one", person="synthetic", another=another
    )


@dataclass
class Watched:
    """What a viewer sees and hears, tick by tick."""

    pictures: list[Picture] = field(default_factory=list)  # new ones only
    names: list[tuple[int, str, str]] = field(default_factory=list)  # colour shown, and what the status says meanwhile
    sounds: list[tuple[int, int, int]] = field(default_factory=list)  # pictures seen before; lowest, highest level

    async def watch(self, show: LiveShow, until: Callable[[], bool], seconds: float = 15.0) -> None:
        start_ns, tick = time.monotonic_ns(), 0
        while not until():
            assert tick * SOUND_NS < seconds * NS, "it did not come"
            play_ns = start_ns + tick * SOUND_NS
            await asyncio.sleep(max(0, play_ns - time.monotonic_ns()) / NS)
            shown = show.take(play_ns) if tick % 2 == 0 else None
            if shown is not None:
                if not shown.repeat:
                    self.pictures.append(shown.picture)
                status = show.status()
                self.names.append((int(shown.picture.image[0, 0, 1]), status.avatar, status.person))
            heard = show.sound(SAMPLE_RATE // 50, play_ns)
            self.sounds.append((len(self.pictures), int(heard.min()), int(heard.max())))
            tick += 1

    def count(self, colour: int) -> int:
        return sum(picture.image[0, 0, 1] == colour for picture in self.pictures)


async def test_seek_in_the_middle_of_speech() -> None:
    show, watched = a_show(), Watched()
    await show.start()
    await watched.watch(show, lambda: watched.count(1) > 20 and watched.sounds[-1][1:] == (-5000, -5000))
    for epoch, place, sign in ((1, 8.0, 1), (2, 0.5, -1)):
        async with asyncio.timeout(15):
            while not show._pacer._queue:  # nobody takes it now: a picture of before waits for its time
                await asyncio.sleep(0.002)
        before, said, left = len(watched.pictures), len(watched.sounds), watched.pictures[-1].image[0, 0, 0] / 10
        show.seek(place)
        spoken = (sign * 5000, sign * 5000)
        await watched.watch(
            show, lambda n=before, s=spoken: len(watched.pictures) > n + 9 and watched.sounds[-1][1:] == s
        )
        new = watched.pictures[before:]
        assert {picture.epoch for picture in new} == {epoch}  # none of before, not even the next one
        places = [int(picture.image[0, 0, 0]) / 10 for picture in new]
        assert places == sorted(places) and places[0] >= place and (sign > 0 or places[0] < left)
        heard = [sign * level for _, *levels in watched.sounds[said + 1 :] for level in levels]
        assert min(heard) >= 0  # of before no more than what fades out at once
    assert all(a.capture_ns < b.capture_ns for a, b in pairwise(watched.pictures))
    await show.stop()


async def test_seek_says_what_it_cannot_do() -> None:
    show = a_show()
    with pytest.raises(InputError, match="show: seek: expected one that is on air, got none yet"):
        show.seek(1.0)
    await show.start()
    watched = Watched()
    await watched.watch(show, lambda: watched.count(1) > 0)
    for place in (-0.1, 12.0, float("nan")):
        with pytest.raises(InputError, match=r"clip: position: expected 0 to 12\.00 seconds"):
            show.seek(place)
    await watched.watch(show, lambda: watched.count(1) > 3)
    assert {picture.epoch for picture in watched.pictures} == {0}
    await show.stop()


def test_a_player_goes_to_a_place_with_its_voice() -> None:
    for loop in (False, True):
        player = speaking()
        player.loop = loop
        now_ns = 1000 * NS
        player.speech(now_ns)
        player.seek(7.0101, now_ns)
        assert player.frame(now_ns).expression[0] == pytest.approx(7.0101, abs=1e-3)
        assert player.speech(now_ns) == []
        (samples, capture_ns), *_ = player.speech(now_ns + 100 * MS)
        assert samples[0] > 0 and 0 <= capture_ns - now_ns < 20 * MS
        assert (capture_ns - player.start_ns) * SAMPLE_RATE % (NS * player.chunk) == 0
        player.seek(11.995, now_ns)
        assert bool(player.speech(now_ns + 100 * MS)) == loop  # the last chunk had begun before that place


async def test_a_swap_shows_every_frame_and_names_the_new_one_with_its_first_picture() -> None:
    loading, go_on = threading.Event(), threading.Event()

    def prepare() -> FakeEngine:
        loading.set()
        go_on.wait(30)
        return telling(2, size=96)  # of another size

    show, watched = a_show(lambda folder: Cast(prepare, 25.0, folder.name, "real")), Watched()
    await show.start()
    await watched.watch(show, lambda: watched.count(1) > 5)
    swap = asyncio.get_running_loop().create_task(show.swap(Path("avatars/two")))
    await watched.watch(show, loading.is_set)
    with pytest.raises(InputError, match="swap: expected one at a time"):
        await show.swap(Path("three"))
    seen = watched.count(1)
    await watched.watch(show, lambda: watched.count(1) > seen + 10)  # the old one goes on
    assert watched.count(2) == 0
    go_on.set()
    await watched.watch(show, lambda: watched.count(2) > 10)
    await swap
    colours = [int(picture.image[0, 0, 1]) for picture in watched.pictures]
    assert colours == sorted(colours)
    assert set(watched.names) == {(1, "one", "synthetic"), (2, "two", "real")}
    assert {picture.epoch for picture in watched.pictures} == {0}
    status = show.status()
    assert status.swaps == {"done": 1, "refused": 1}
    lost = {reason: n for reason, n in status.drops.items() if not reason.endswith(("overtaken", "skipped"))}
    assert lost == {}  # a busy machine may skip, a swap does not
    indices = [picture.index for picture in watched.pictures]
    assert indices == sorted(set(indices)) and indices[-1] - indices[0] + 1 - len(indices) <= sum(status.drops.values())
    await show.stop()


async def test_the_old_one_stays_where_the_new_one_cannot_come() -> None:
    def another(folder: Path) -> Cast:
        def broken() -> FakeEngine:
            raise InputError(str(folder), "networks", "a graph named body", "none")

        def crashing() -> FakeEngine:
            raise MemoryError("no room")

        known = {
            "slower": Cast(telling, 30.0, "slower"),
            "broken": Cast(broken, 25.0, "broken"),
            "crashing": Cast(crashing, 25.0, "crashing"),
            "odd": Cast(lambda: FakeEngine([FakeStage("unheard of")]), 25.0, "odd"),
        }
        if folder.name not in known:
            raise InputError(str(folder), "avatar.toml", "a file", "none")
        return known[folder.name]

    show, watched = a_show(another), Watched()
    with pytest.raises(InputError, match="none yet"):
        await show.swap(Path("broken"))
    await show.start()
    await watched.watch(show, lambda: watched.count(1) > 3)
    for name, error, line in (
        ("slower", InputError, "slower: fps: expected 25, as the show's, got 30"),
        ("broken", InputError, "broken: networks: expected a graph named body, got none"),
        ("nowhere", InputError, "nowhere: avatar.toml: expected a file"),
        ("crashing", MemoryError, "no room"),
        ("odd", ValueError, "do not hold the stages"),
    ):
        with pytest.raises(error, match=line):
            await show.swap(Path(name))
        seen = watched.count(1)
        await watched.watch(show, lambda n=seen: watched.count(1) > n + 2)
    assert {name for _, name, _ in watched.names} == {"one"} and not show.status().trouble
    assert show.status().swaps == {"refused": 2, "failed": 4}
    await show.stop()
    with pytest.raises(InputError, match="one that has stopped"):
        await show.swap(Path("broken"))


async def test_a_seek_during_a_swap_and_a_stop_while_one_loads() -> None:
    loading, go_on = threading.Event(), threading.Event()

    def prepare() -> FakeEngine:
        loading.set()
        go_on.wait(30)
        return telling(2)

    show, watched = a_show(lambda folder: Cast(prepare, 25.0, folder.name)), Watched()
    await show.start()
    await watched.watch(show, lambda: watched.count(1) > 5)
    swap = asyncio.get_running_loop().create_task(show.swap(Path("two")))
    await watched.watch(show, loading.is_set)
    show.seek(6.0)
    go_on.set()
    await swap
    show.seek(8.0)  # before a picture of the new one is shown
    await watched.watch(show, lambda: watched.count(2) > 5)
    assert {(p.epoch, int(p.image[0, 0, 1])) for p in watched.pictures} >= {(0, 1), (2, 2)}
    assert [(p.epoch, p.index) for p in watched.pictures] == sorted({(p.epoch, p.index) for p in watched.pictures})
    assert watched.names[-1][1] == "two" and {(c, n) for c, n, _ in watched.names} == {(1, "one"), (2, "two")}
    loading.clear()
    go_on.clear()
    swap = asyncio.get_running_loop().create_task(show.swap(Path("three")))
    await watched.watch(show, loading.is_set)
    await show.stop()
    go_on.set()
    with pytest.raises(InputError, match="one that has stopped"):
        await swap
    assert not any(thread.name.startswith("liveanchor-") for thread in threading.enumerate())


async def test_the_old_engine_is_let_go() -> None:
    first = telling(1)
    held = [weakref.ref(stage) for stage in first.stages]
    engines = [first]
    del first
    show = LiveShow(engines.pop, 25.0, player=speaking(), another=lambda _: Cast(lambda: telling(2), 25.0))
    watched = Watched()
    await show.start()
    await watched.watch(show, lambda: watched.count(1) > 2)
    gc.disable()
    try:
        await show.swap(Path("two"))
        assert [ref() for ref in held] == [None, None, None]
    finally:
        gc.enable()
    await show.stop()


def test_avatars_are_opened_as_the_settings_ask(tmp_path: Path) -> None:
    avatar = Avatar.load(bundled_avatar())
    cast = open_cast(Settings(), (), bundled_avatar())
    assert (cast.avatar, cast.fps, cast.person) == (avatar.name, avatar.fps, avatar.person)
    with pytest.raises(InputError, match=r"nobody.*avatar\.toml"):
        open_cast(Settings(), (), tmp_path / "nobody")
    (tmp_path / "avatar.toml").write_bytes((bundled_avatar() / "avatar.toml").read_bytes())
    with pytest.raises(InputError):  # its graphs are not there; the settings' own avatar is not taken in their place
        open_cast(Settings(avatar=bundled_avatar()), (), tmp_path).prepare()


# -- viewers


async def test_viewers_see_another_size_and_are_told_of_another_person_at_once() -> None:
    """One H.264 stream goes on: pictures of another size are scaled, a keyframe carries the new mark with the first."""
    executor = ThreadPoolExecutor(1)
    feed = VideoFeed(lambda: VideoEncoder("h264", 64, 64, 25.0, 500_000), executor)
    track = feed.subscribe()
    context, frames = av.CodecContext.create("h264", "r"), []
    for i, (size, person) in enumerate([(64, "synthetic")] * 4 + [(96, "real")] * 4 + [(32, "real")] * 4):
        image = np.full((size, size, 3), 20 * i, np.uint8)
        feed.push(Outgoing(image, i * TICK_NS, i * TICK_NS, provenance.user_data(person)))
        packet = await asyncio.wait_for(track.recv(), 10)
        frames += [(said(frame), frame.width, frame.to_ndarray(format="rgb24")) for frame in context.decode(packet)]
    frames += [(said(frame), frame.width, frame.to_ndarray(format="rgb24")) for frame in context.decode(None)]
    marks = {i: facts for i, (facts, _, _) in enumerate(frames) if facts}
    assert marks == {0: [provenance.facts("synthetic")], 4: [provenance.facts("real")]}
    assert {width for _, width, _ in frames} == {64} and len(frames) == 12
    for i, (_, _, pixels) in enumerate(frames):
        assert abs(pixels.mean() - 20 * i) < 8
    executor.shutdown()


def test_swaps_are_counted_for_prometheus_and_the_page() -> None:
    meter, show = Meter(), FakeShow()
    status = replace(show.status(), swaps={"done": 2, "failed": 1})
    show.status = lambda: status  # type: ignore[method-assign]
    meter.collect_from(show, lambda: 0)
    assert b'liveanchor_swaps_total{outcome="done"} 2.0' in meter.exposition()
    assert meter.snapshot(show, 0)["swaps"] == {"done": 2, "failed": 1}
