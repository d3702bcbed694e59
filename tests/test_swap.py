"""One engine takes over from another: the order of pictures for any timing, then with threads, then with real stages."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import structlog
from fake_show import FakeShow
from fakes import FakeEngine, FakeStage, pose_frame
from hypothesis import given
from hypothesis import strategies as st
from test_live import an_avatar, networks
from test_pipeline import wait
from test_provenance import said

from engine.errors import InputError
from engine.live import LiveEngine, load_body
from engine.picture import Picture
from engine.pose import PoseClip, PoseFrame
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from engine.work import Work
from streaming import provenance
from streaming.cast import Cast
from streaming.clock import MS, NS
from streaming.live_show import LiveShow
from streaming.messages import SAMPLE_RATE
from streaming.metrics import Meter
from streaming.relay import Relay
from streaming.sources.file import Player
from streaming.succession import CUT_OFF, Succession
from streaming.webrtc.encoder import VideoEncoder
from streaming.webrtc.tracks import Outgoing, VideoFeed

FRAME = pose_frame(0)
NOTHING = np.zeros((1, 1, 3), np.uint8)


def at(time_ns: int) -> PoseFrame:
    return replace(FRAME, time_ns=time_ns)


@dataclass
class Painter(FakeStage):
    """Paints one colour, in `seconds` or up to that where a chance is given."""

    colour: int = 0
    chance: random.Random | None = None

    def __call__(self, work: Work) -> list[Work]:
        if self.chance is not None:
            time.sleep(self.seconds * self.chance.random())
        work.image = work.condition = np.full((1, 1, 3), self.colour, np.uint8)
        return super().__call__(work)


def painter(colour: int, seconds: float = 0.0, burst: int = 1, chance: random.Random | None = None) -> FakeEngine:
    def stage(name: str, burst: int = 1) -> Painter:
        return Painter(name, seconds, burst, colour=colour, chance=chance)

    return FakeEngine([stage("body"), stage("denoise", burst), stage("decode")])


# -- the order, without threads


@given(st.data())
def test_any_timing_keeps_the_order_and_loses_nothing(data: st.DataObject) -> None:
    """Three engines, one after the other; each frame is finished or dropped, in the order of its engine."""
    succession, left, finished = Succession(limit=100), [], []
    counts = data.draw(st.lists(st.integers(0, 8), min_size=3, max_size=3), "frames of each engine")
    first = [0, counts[0], counts[0] + counts[1]]
    todo = [[*range(start, start + count), None] for start, count in zip(first, counts, strict=True)]
    while any(todo):
        # the third comes only when the first has ended, as a relay sees to
        at_work = [engine for engine in range(3) if todo[engine] and engine <= succession.turn + 1]
        engine = data.draw(st.sampled_from(at_work))
        frame = todo[engine].pop(0)
        if frame is None and engine > succession.turn:  # nobody has taken over from it yet
            todo[engine].append(None)
            continue
        if frame is None:
            leaving = succession.end(engine)
        elif data.draw(st.booleans(), "painted"):
            finished.append(frame)
            leaving = succession.take(engine, Picture(frame, 0, frame, NOTHING, NOTHING))
        else:
            leaving = []
        left += [picture.index for picture in leaving]
    assert left == sorted(finished)  # every one, once, in order
    assert not succession.drops


@given(st.integers(1, 6), st.lists(st.sampled_from(["old", "new", "end", "reset"]), max_size=60))
def test_memory_is_bounded_and_what_is_lost_is_counted(limit: int, events: list[str]) -> None:
    """One that never ends is cut off; a reset takes out what waits."""
    succession, left, painted = Succession(limit), [], 0
    for event in events:
        leaving = []
        if event == "end":
            leaving = succession.end(0)
        elif event == "reset":
            succession.begin(succession.epoch + 1)
        else:
            engine = int(event == "new")
            picture = Picture(painted, succession.epoch, engine, NOTHING, NOTHING)
            leaving = succession.take(engine, picture)
            painted += 1
        assert succession.held <= limit
        assert all(picture.epoch == succession.epoch for picture in leaving)
        left += leaving
    engines = [picture.capture_ns for picture in left]
    assert engines == sorted(engines)  # none of the old one after the first of the new one
    assert [p.index for p in left if p.capture_ns] == sorted(p.index for p in left if p.capture_ns)
    assert painted == len(left) + sum(succession.drops.values()) + succession.held
    assert "end" in events or succession.drops[CUT_OFF] == 0 or events.count("new") > limit


def test_pictures_of_an_epoch_that_is_over_do_not_leave() -> None:
    succession = Succession()
    succession.begin(1)
    assert succession.take(0, Picture(0, 0, 0, NOTHING, NOTHING)) == []
    assert succession.drops == Counter(stale=1)
    with pytest.raises(ValueError, match="cannot follow"):
        succession.take(2, Picture(0, 1, 0, NOTHING, NOTHING))


# -- in threads


def settled(relay: Relay) -> bool:
    return wait(lambda: relay.submitted == relay.finished + sum(relay.drops().values()))


def colours(pictures: list[Picture]) -> list[int]:
    return [int(picture.image[0, 0, 0]) for picture in pictures]


@pytest.mark.parametrize("seed", range(12))
def test_no_frame_is_lost_at_any_moment_of_a_swap(seed: int) -> None:
    """Swaps in a row at random moments, with random slowness; frames that wait at doors and in bursts included."""
    chance = random.Random(seed)
    out: list[Picture] = []

    def engine(colour: int) -> FakeEngine:
        return painter(colour, 0.004 * chance.random(), chance.choice([1, 1, 2, 3]), random.Random(colour))

    relay = Relay(engine(0), out.append)
    relay.start()
    times, last_of = 0, {}
    for colour in range(1, 6):
        for _ in range(chance.randrange(8)):
            relay.submit(at(times))
            times += 1
            if chance.random() < 0.7:
                time.sleep(0.006 * chance.random())
        before = relay.drops()
        relay.swap(engine(colour))
        last_of[colour - 1] = times
        if chance.random() < 0.7:
            relay.submit(at(times))
            times += 1
        assert relay.wait(10)
        old = Counter(relay.drops()) - Counter(before)
        assert sum(old.values()) <= 1, old  # one that was pushed out while the swap was asked for, no more
    relay.swap(engine(6))  # flushes the fifth
    assert relay.wait(10) and settled(relay)
    indices = [picture.index for picture in out]
    assert indices == [picture.capture_ns for picture in out] == sorted(set(indices))
    assert colours(out) == sorted(colours(out))
    for colour, end in last_of.items():
        assert all(picture.capture_ns < end for picture in out if picture.image[0, 0, 0] == colour)
    assert all(reason.endswith("overtaken") for reason in relay.drops())
    assert relay.stop()
    assert not any(thread.name.startswith("liveanchor-") for thread in threading.enumerate())


@pytest.mark.parametrize("burst", [1, 3, 4])
def test_frames_that_wait_at_doors_or_are_held_back_are_finished(burst: int) -> None:
    """All doors full at the moment of the swap: not one of the frames that wait is pushed out or forgotten."""
    go_on, out = threading.Event(), []

    class Stuck(Painter):
        def __call__(self, work: Work) -> list[Work]:
            go_on.wait(30)
            return super().__call__(work)

    old = painter(1)
    old.stages[1] = Stuck("denoise", 0, burst, colour=1)
    relay = Relay(old, out.append)
    relay.start()
    count = (
        max(2, burst) + 2
    )  # one in the stage, the door full, one in the body's thread that finds no room or at its door
    for i in range(count):
        relay.submit(at(i))
        assert wait(lambda i=i: len(old.stages[0].seen) == min(i + 1, count))
    relay.submit(at(count))
    relay.swap(painter(2))
    for i in range(count + 1, count + 4):
        relay.submit(at(i))
        assert wait(lambda i=i: relay.held == i - count)
    assert out == []
    dropped = sum(relay.drops().values())  # before the swap the newest wins, as ever
    go_on.set()
    assert relay.wait(10) and settled(relay)
    assert sum(relay.drops().values()) == dropped <= 2
    assert len(out) == count + 4 - dropped
    assert colours(out) == [1] * (count + 1 - dropped) + [2] * 3
    assert [p.index for p in out] == sorted(p.index for p in out)
    assert relay.stop()


def test_an_engine_that_hangs_is_cut_off_and_what_it_still_paints_does_not_leave() -> None:
    go_on, out = threading.Event(), []

    class Stuck(Painter):
        def __call__(self, work: Work) -> list[Work]:
            go_on.wait(30)
            return super().__call__(work)

    relay = Relay(FakeEngine([FakeStage("body"), Stuck("denoise", colour=1)]), out.append)
    relay.start()
    relay.submit(at(0))
    relay.swap(painter(2))
    assert relay.swapping
    with pytest.raises(RuntimeError, match="going on"):
        relay.swap(painter(3))
    relay.submit(at(1))
    assert wait(lambda: relay.held == 1)
    assert not relay.wait(0.01)
    assert colours(out) == [2] and not relay.swapping
    relay.submit(at(2))
    assert wait(lambda: len(out) == 2)
    go_on.set()
    assert settled(relay)
    assert colours(out) == [2, 2] and relay.drops() == {f"swap: {CUT_OFF}": 1}
    assert relay.stop()


@pytest.mark.parametrize("seed", range(6))
def test_a_reset_takes_out_the_old_epoch_of_both_engines(seed: int) -> None:
    chance = random.Random(seed)
    current, wrong, out = [0], [], []

    def on_picture(picture: Picture) -> None:
        out.append(picture)
        if picture.epoch < current[0]:
            wrong.append(picture)

    relay = Relay(painter(0, 0.002, 2, chance), on_picture)
    relay.start()
    times = 0
    for colour in range(1, 15):
        for _ in range(chance.randrange(1, 6)):
            relay.submit(at(times))
            times += 1
            time.sleep(0.002 * chance.random())
        relay.swap(painter(colour, 0.002, chance.choice([1, 2]), random.Random(seed)))
        for _ in range(chance.randrange(3)):
            relay.submit(at(times))
            times += 1
            time.sleep(0.001 * chance.random())
        current[0] = relay.reset()
        assert relay.held == 0
        relay.submit(at(times))
        times += 1
        assert relay.wait(10)
    relay.swap(painter(15))
    assert relay.wait(10) and settled(relay)
    assert wrong == [] and current[0] == 14
    keys = [(p.epoch, p.index) for p in out]
    assert keys == sorted(set(keys)) and colours(out) == sorted(colours(out))
    assert [p.capture_ns for p in out] == sorted(p.capture_ns for p in out)
    assert relay.stop()


def test_a_stage_that_crashes_while_it_is_flushed_holds_nobody_up() -> None:
    class Unflushable(Painter):
        def flush(self) -> list[Work]:
            if len(self._held) == 1:
                raise RuntimeError("no")
            return super().flush()

        def reset(self) -> int:
            held, self._held = len(self._held), []
            return held

    out: list[Picture] = []
    engine = FakeEngine([FakeStage("body"), Unflushable("denoise", burst=2, colour=1), FakeStage("decode")])
    relay = Relay(engine, out.append)
    relay.start()
    relay.submit(at(0))
    assert wait(lambda: len(engine.stages[1].seen) == 1)
    with structlog.testing.capture_logs() as logs:
        relay.swap(painter(2))
        relay.submit(at(1))
        assert relay.wait(10) and settled(relay)
    assert colours(out) == [2] and relay.drops() == {"denoise: crashed": 1}
    assert [entry["event"] for entry in logs] == ["stage cannot be flushed"]
    assert relay.stop()


def test_a_viewer_who_raises_loses_one_picture() -> None:
    def on_picture(picture: Picture) -> None:
        if picture.index == 1:
            raise RuntimeError("the viewer left")

    relay = Relay(painter(1), on_picture)
    relay.start()
    with structlog.testing.capture_logs():
        for i in range(3):
            relay.submit(at(i))
            assert wait(lambda i=i: relay.finished + sum(relay.drops().values()) == i + 1)
    assert relay.finished == 2 and relay.drops() == {"exit: crashed": 1}
    assert relay.stop()


# -- with the real stages


@pytest.mark.parametrize("hop", [1, 2])
def test_two_avatars_each_paint_their_frames_to_the_last(hop: int) -> None:
    """What comes out is what each engine alone would have painted of its frames, a held-back one included."""
    body = load_body(an_avatar())

    def engine(seed: int, hop: int) -> LiveEngine:
        return LiveEngine(an_avatar(), networks(1 + hop), context=1, hop=hop, seed=seed, body=body)

    frames = [pose_frame(i * 40_000_000, i) for i in range(9)]

    def alone(engine: LiveEngine, frames: list[PoseFrame]) -> list[np.ndarray]:
        pictures = [picture for frame in frames for picture in engine.feed(frame)]
        return [picture.image for picture in [*pictures, *engine.flush()]]

    wanted = alone(engine(1, hop), frames[:5]) + alone(engine(2, 1), frames[5:])
    assert not np.array_equal(wanted[5], alone(engine(1, hop), frames[5:])[0])  # the two differ
    out: list[Picture] = []
    table = networks(1 + hop)
    relay = Relay(LiveEngine(an_avatar(), table, context=1, hop=hop, seed=1, body=body), out.append)
    relay.start()
    for i, frame in enumerate(frames):
        if i == 5:
            relay.swap(engine(2, 1))
        relay.submit(frame)
        if i < 4:  # the last of the old one is on its way while the new one begins
            assert wait(lambda n=i + 1: table["hint"].calls == n, 30)
        elif i > 4:
            assert wait(lambda n=i + 1: relay.finished == n, 30)
    assert relay.wait(30)
    assert [(p.epoch, p.index, p.capture_ns) for p in out] == [(0, i, f.time_ns) for i, f in enumerate(frames)]
    assert all(np.array_equal(p.image, image) for p, image in zip(out, wanted, strict=True))
    assert relay.drops() == {} and relay.stop()


# -- the show

TICK_NS = 40 * MS


def speaking(seconds: float = 12.0) -> Player:
    """A clip whose mouth opens with the time, and a voice that is negative in the first half, positive in the second."""
    frames = round(seconds * 25)
    expressions = np.zeros((frames, EXPRESSION_DIMS), np.float32)
    expressions[:, 0] = np.arange(frames) / 25
    clip = PoseClip(25, np.zeros((frames, POSE_DIMS), np.float32), expressions, np.zeros((frames, 3), np.float32))
    half = np.full(round(seconds * SAMPLE_RATE) // 2, 5000, np.int16)
    return Player(clip, np.concatenate([-half, half]), loop=False)


def telling(colour: int = 0, seconds: float = 0.004, size: int = 64) -> FakeEngine:
    """Paints the place in the clip in tenths of a second in the first channel, `colour` in the second."""

    class Teller(FakeStage):
        def __call__(self, work: Work) -> list[Work]:
            work.image = work.condition = np.empty((size, size, 3), np.uint8)
            work.image[...] = (round(float(work.frame.expression[0]) * 10), colour, 0)
            return super().__call__(work)

    return FakeEngine([FakeStage("body", seconds), Teller("denoise", seconds), FakeStage("decode", seconds)])


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
        play_ns = time.monotonic_ns()
        end_ns = play_ns + round(seconds * NS)
        while not until():
            assert play_ns < end_ns, "it did not come"
            await asyncio.sleep(max(0, play_ns - time.monotonic_ns()) / NS)
            shown = show.take(play_ns)
            if shown is not None:
                if not shown.repeat:
                    self.pictures.append(shown.picture)
                status = show.status()
                self.names.append((int(shown.picture.image[0, 0, 1]), status.avatar, status.person))
            for part in range(2):
                heard = show.sound(SAMPLE_RATE // 50, play_ns + part * 20 * MS)
                self.sounds.append((len(self.pictures), int(heard.min()), int(heard.max())))
            play_ns += TICK_NS

    def count(self, colour: int) -> int:
        return sum(picture.image[0, 0, 1] == colour for picture in self.pictures)


async def test_seek_in_the_middle_of_speech() -> None:
    show, watched = a_show(), Watched()
    await show.start()
    await watched.watch(show, lambda: watched.count(1) > 20 and watched.sounds[-1][1:] == (-5000, -5000))
    for epoch, place, sign in ((1, 8.0, 1), (2, 0.5, -1)):
        delay_ns, before = show.status().delay_ns, len(watched.pictures)
        show.seek(place)
        await watched.watch(show, lambda n=before: len(watched.pictures) > n + 12)
        new = watched.pictures[before:]
        assert {picture.epoch for picture in new} == {epoch}  # none of before, not even the next one
        places = [int(picture.image[0, 0, 0]) / 10 for picture in new]
        assert places == sorted(places) and place <= places[0] < place + 0.5 < places[-1] + 0.4
        heard = [sign * level for seen, *levels in watched.sounds if seen > before for level in levels]
        assert min(heard) >= 0 and max(heard) == 5000  # nothing of before with the first picture or after it
        assert abs(show.status().delay_ns - delay_ns) < TICK_NS
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
