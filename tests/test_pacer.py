"""The pacer: each picture once and on time, a smooth delay, every repeat and loss counted."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.picture import Picture
from streaming.clock import MS, NS, FakeClock
from streaming.pacer import Pacer, PacerSettings, Shown

TICK = 40 * MS
BLANK = np.zeros((1, 1, 3), np.uint8)


def picture(index: int, capture_ns: int, epoch: int = 0) -> Picture:
    return Picture(index, epoch, capture_ns, BLANK, BLANK)


def run(
    pacer: Pacer, pipeline: list[int], silent: bool = False, phase: int = 0, wake: list[int] | None = None
) -> list[tuple[int, Shown]]:
    """One picture captured each tick, finished after its pipeline time; what the ticks showed."""
    ready = sorted((i * TICK + late, i) for i, late in enumerate(pipeline))
    shown = []
    for k in range(len(pipeline)):
        now = k * TICK + phase + (wake[k] if wake else 0)
        while ready and ready[0][0] <= now:
            at, i = ready.pop(0)
            pacer.push(picture(i, i * TICK), at)
        taken = pacer.take(now, silent)
        if taken is not None:
            shown.append((now, taken))
    return shown


def test_nothing_is_shown_before_the_first_picture() -> None:
    pacer = Pacer()
    assert pacer.take(0) is None and pacer.delay_ns == 0 and pacer.counters.starved == 0


def test_each_picture_is_shown_once_and_at_its_time() -> None:
    pacer = Pacer()
    shown = run(pacer, [55 * MS] * 200)
    indices = [s.picture.index for _, s in shown if not s.repeat]
    assert indices == list(range(indices[-1] + 1))
    for now, s in shown[10:]:
        assert not s.repeat and abs(now - s.picture.capture_ns - pacer.delay_ns) <= pacer.settings.slack_ns
    assert pacer.delay_ns == 65 * MS and pacer.counters.late == 0


@settings(max_examples=40, deadline=None)
@given(phase=st.integers(0, TICK - 1), seed=st.integers(0, 1000))
def test_no_phase_of_the_ticks_makes_it_stutter(phase: int, seed: int) -> None:
    """Ticks that wake up to 4 ms late, at any phase against the capture times: no repeat and skip in turn."""
    random = np.random.default_rng(seed)
    pacer = Pacer()
    run(pacer, [50 * MS] * 150, phase=phase, wake=[int(w) for w in random.integers(0, 4 * MS, 150)])
    assert pacer.counters.starved + pacer.counters.waiting <= 3 and pacer.counters.skipped <= 3


def test_the_delay_covers_the_quantile_and_is_slewed_while_speech_runs() -> None:
    pacer, last = Pacer(), None
    for k in range(800):
        now = k * TICK
        pacer.push(picture(k, now - (50 * MS if k < 100 else 150 * MS)), now)
        pacer.take(now)
        if last is not None and k > 0:
            assert abs(pacer.delay_ns - last) <= pacer.settings.slew * TICK + 1
        last = pacer.delay_ns
    assert pacer.wish_ns == 160 * MS and pacer.delay_ns == 160 * MS and pacer.counters.steps == 0


def test_in_silence_the_delay_steps() -> None:
    pacer = Pacer()
    run(pacer, [50 * MS] * 50 + [200 * MS] * 100)
    assert pacer.delay_ns < 100 * MS
    pacer.take(200 * TICK, silent=True)
    assert pacer.delay_ns == pacer.wish_ns == 210 * MS and pacer.counters.steps == 1


def test_a_stalled_model_repeats_the_last_picture_and_then_shows_the_newest() -> None:
    pacer = Pacer()
    shown = run(pacer, [30 * MS if not 50 <= i < 60 else (60 - i) * TICK + 30 * MS for i in range(100)])
    assert pacer.counters.starved >= 9 and pacer.counters.skipped >= 8
    held = [s.picture.index for _, s in shown if s.repeat == "starved"]
    assert set(held) == {49}
    indices = [s.picture.index for _, s in shown]
    assert indices == sorted(indices)


def test_pictures_of_an_older_epoch_die() -> None:
    pacer = Pacer()
    pacer.push(picture(0, 0, epoch=1), 10 * MS)
    pacer.push(picture(1, TICK, epoch=1), TICK + 10 * MS)
    pacer.push(picture(0, TICK, epoch=2), TICK + 20 * MS)
    pacer.push(picture(2, 2 * TICK, epoch=1), 2 * TICK)
    taken = pacer.take(3 * TICK)
    assert taken is not None and taken.picture.epoch == 2 and pacer.counters.stale == 3


def test_a_full_queue_drops_the_oldest() -> None:
    pacer = Pacer(PacerSettings(capacity=4))
    for i in range(10):
        pacer.push(picture(i, i * TICK), 0)
    assert pacer.counters.overflow == 6 and len(pacer._queue) == 4
    taken = pacer.take(100 * TICK)
    assert taken is not None and taken.picture.index == 9


events = st.tuples(
    st.booleans(), st.integers(0, 200 * MS), st.integers(-100 * MS, NS), st.integers(0, 3), st.booleans()
)


@settings(max_examples=100, deadline=None)
@given(st.lists(events, max_size=200))
def test_whatever_comes_pictures_go_forward_and_every_one_is_accounted_for(
    steps: list[tuple[bool, int, int, int, bool]],
) -> None:
    pacer, clock, pushed, ticks, last, taken_ns = Pacer(), FakeClock(), 0, 0, (-1, -1 << 62), 0
    for is_picture, passed, age, epoch, silent in steps:
        now, before = clock.advance(passed), pacer.delay_ns
        if is_picture:
            pacer.push(picture(pushed, now - age, epoch), now)
            pushed += 1
            continue
        shown = pacer.take(now, silent)
        if shown is not None:
            ticks += 1
            assert (shown.picture.epoch, shown.picture.capture_ns) >= last
            last = (shown.picture.epoch, shown.picture.capture_ns)
        if not silent:
            assert abs(pacer.delay_ns - before) <= pacer.settings.slew * (now - taken_ns) + 1
        taken_ns = now
    counters = asdict(pacer.counters)
    assert ticks == counters["shown"] + counters["starved"] + counters["waiting"]
    gone = sum(counters[reason] for reason in ("shown", "skipped", "disordered", "stale", "overflow"))
    assert pushed == gone + len(pacer._queue)


def test_an_epoch_does_not_make_the_delay_jump() -> None:
    """The first picture of a seek may be quick: what is known of the engine is not forgotten over it."""
    pacer = Pacer()
    run(pacer, [55 * MS] * 100)
    pacer.reset(1)
    pacer.push(picture(0, 100 * TICK, 1), 100 * TICK + 20 * MS)
    shown = pacer.take(100 * TICK + 30 * MS, silent=True)
    assert shown is not None and (shown.picture.epoch, shown.repeat) == (0, "waiting")
    assert pacer.delay_ns == 65 * MS and pacer.counters.steps == 0
