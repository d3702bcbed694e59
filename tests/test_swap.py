"""One engine takes over from another: the order of pictures for any timing, then with threads, then with real stages."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import structlog
from fakes import FakeEngine, FakeNetwork, FakeStage, pose_frame
from hypothesis import given
from hypothesis import strategies as st
from test_live import an_avatar, networks
from test_pipeline import wait

from engine.live import LiveEngine
from engine.picture import Picture
from engine.pose import PoseFrame
from engine.work import Work
from streaming.relay import Relay
from streaming.succession import CUT_OFF, Succession

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


@dataclass
class Gated(Painter):
    """Lets a frame through when the gate is open."""

    gate: threading.Event = field(default_factory=threading.Event)
    waiting: int = 0

    def __call__(self, work: Work) -> list[Work]:
        self.waiting += 1
        assert self.gate.wait(30)
        return super().__call__(work)


@pytest.mark.parametrize("burst", [1, 3, 4])
def test_frames_that_wait_at_doors_or_are_held_back_are_finished(burst: int) -> None:
    """All doors full at the moment of the swap: not one of the frames that wait is pushed out or forgotten."""
    out: list[Picture] = []
    body, denoise = Gated("body", colour=1), Gated("denoise", 0, burst, colour=1)
    relay = Relay(FakeEngine([body, denoise, FakeStage("decode")]), out.append)
    relay.start()
    body.gate.set()
    count = 1 + max(2, burst)  # one in the stage, and the door before it is full
    for i in range(count):
        relay.submit(at(i))
        assert wait(lambda i=i: len(body.seen) == i + 1 and denoise.waiting == 1)
    body.gate.clear()
    for i in range(count, count + 2):  # one in the body's stage, one at its door
        relay.submit(at(i))
        assert wait(lambda: body.waiting == count + 1)
    relay.swap(painter(2))
    for i in range(3):
        relay.submit(at(count + 2 + i))
        assert wait(lambda i=i: relay.held == i + 1)
    body.gate.set()
    time.sleep(0.02)  # for the body to find the next door full
    assert out == []
    denoise.gate.set()
    assert relay.wait(10) and settled(relay)
    assert relay.drops() == {}
    assert [picture.index for picture in out] == list(range(count + 5))
    assert colours(out) == [1] * (count + 2) + [2] * 3
    assert relay.stop()


def test_a_reset_lets_what_waits_in_the_old_engine_die_at_once() -> None:
    out: list[Picture] = []
    denoise = Gated("denoise", colour=1)
    relay = Relay(FakeEngine([FakeStage("body"), denoise]), out.append)
    relay.start()
    for i in range(3):
        relay.submit(at(i))
        assert wait(lambda i=i: relay.submitted == i + 1 and denoise.waiting == 1)
        time.sleep(0.005)
    relay.swap(painter(2))
    relay.submit(at(3))
    assert wait(lambda: relay.held == 1)
    assert relay.reset() == 1
    assert relay.held == 0
    denoise.gate.set()
    relay.submit(at(4))
    assert relay.wait(10) and settled(relay)
    assert denoise.seen == [(0, 0)]  # the others were not painted for nobody
    assert [(p.epoch, p.index) for p in out] == [(1, 0)] and colours(out) == [2]
    assert relay.stop()


def test_an_engine_that_hangs_is_cut_off_and_what_it_still_paints_does_not_leave() -> None:
    out: list[Picture] = []
    stuck = Gated("denoise", colour=1)
    relay = Relay(FakeEngine([FakeStage("body"), stuck]), out.append)
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
    stuck.gate.set()
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

    def engine(seed: int, hop: int, table: dict[str, FakeNetwork] | None = None) -> LiveEngine:
        return LiveEngine(an_avatar(), table or networks(1 + hop), context=1, hop=hop, seed=seed)

    frames = [pose_frame(i * 40_000_000, i) for i in range(9)]

    def alone(engine: LiveEngine, frames: list[PoseFrame]) -> list[np.ndarray]:
        pictures = [picture for frame in frames for picture in engine.feed(frame)]
        return [picture.image for picture in [*pictures, *engine.flush()]]

    wanted = alone(engine(1, hop), frames[:5]) + alone(engine(2, 1), frames[5:])
    assert not np.array_equal(wanted[5], alone(engine(1, hop), frames[5:])[0])  # the two differ
    out: list[Picture] = []
    table = networks(1 + hop)
    relay = Relay(engine(1, hop, table), out.append)
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
