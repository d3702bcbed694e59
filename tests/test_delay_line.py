"""The delay line: the right sample at the right time, no clicks, no drift, fixed memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.clock import MS, NS
from streaming.delay_line import DelayLine, DelayLineSettings
from streaming.messages import SAMPLE_RATE

CHUNK = 480
CHUNK_NS = CHUNK * NS // SAMPLE_RATE
PULL = 960
PULL_NS = PULL * NS // SAMPLE_RATE
LEVEL = 12_000


def sine(first: int, count: int, hertz: float = 440.0) -> np.ndarray:
    """`count` samples of a sine from index `first` of an endless one."""
    return np.round(LEVEL * np.sin(2 * np.pi * hertz * np.arange(first, first + count) / SAMPLE_RATE)).astype(np.int16)


def largest_step(hertz: float, fade: int = 240) -> float:
    """No two neighbours may differ by more: the sine's slope at 0.5 % more speed, two fades at once, rounding."""
    return LEVEL * 2 * np.pi * hertz / SAMPLE_RATE * 2.1 + 2 * LEVEL / fade + 2


def noise(count: int, seed: int = 0) -> np.ndarray:
    """Samples that are all different from their neighbours, so that a shift by one shows."""
    return np.random.default_rng(seed).integers(-8000, 8000, count).astype(np.int16)


def test_samples_come_out_unchanged_after_exactly_the_delay() -> None:
    line, source = DelayLine(), noise(SAMPLE_RATE)
    for i in range(0, SAMPLE_RATE, CHUNK):
        line.push(source[i : i + CHUNK], 5 * NS + i * NS // SAMPLE_RATE)
    delay = 120 * MS
    out = np.concatenate([line.pull(PULL, 5 * NS + k * PULL_NS, delay)[:, 0] for k in range(50)])
    lag = delay * SAMPLE_RATE // NS
    assert not out[:lag].any()
    np.testing.assert_array_equal(out[lag + 240 :], source[240 : SAMPLE_RATE - lag])  # behind the fade in, bit for bit
    assert line.counters.silence == lag and line.counters.slewed == 0


def test_stereo_keeps_its_channels_apart() -> None:
    line = DelayLine(DelayLineSettings(channels=2))
    source = np.stack([noise(4800, 1), noise(4800, 2)], -1)
    line.push(source, 0)
    out = line.pull(4000, 0, 0)
    np.testing.assert_array_equal(out[240:], source[240:4000])


def test_a_slewed_delay_is_followed_without_a_click() -> None:
    line, out, delay = DelayLine(), [], 100.0 * MS
    for k in range(2000):  # 40 s
        line.push(sine(k * PULL, PULL), k * PULL_NS)
        delay += PULL_NS * (0.004 if 200 <= k < 700 else -0.004 if 1000 <= k < 1500 else 0)  # 40 ms up and down again
        out.append(line.pull(PULL, k * PULL_NS, int(delay))[:, 0])
    steps = np.abs(np.diff(np.concatenate(out).astype(int)))
    assert steps.max() <= largest_step(440)
    assert line.counters.jumps == line.counters.forced_jumps == line.counters.underruns == 0
    assert line.counters.slewed > 0.9 * 2 * 0.038 * SAMPLE_RATE
    assert abs(line._error) < 4 * MS * SAMPLE_RATE / NS


def test_speed_never_changes_by_more_than_half_a_percent_while_something_is_heard() -> None:
    line, last = DelayLine(), 0.0
    for k in range(500):
        line.push(sine(k * PULL, PULL), k * PULL_NS)
        line.pull(PULL, k * PULL_NS, 100 * MS if k < 100 else 250 * MS)
        assert line.counters.slewed - last <= 0.005 * PULL + 1e-6
        last = line.counters.slewed
    assert last > 0.004 * PULL * 300


def test_a_stepped_delay_is_jumped_in_the_next_pause_and_not_before() -> None:
    line, jumps_at = DelayLine(), []
    for k in range(400):
        loud = not 200 <= k < 230  # a pause of 0.6 s
        line.push(sine(k * PULL, PULL) * loud, k * PULL_NS)
        before = line.counters.jumps
        line.pull(PULL, k * PULL_NS, 100 * MS if k < 50 else 300 * MS)
        if line.counters.jumps > before:
            jumps_at.append(k)
    assert len(jumps_at) == 1 and 200 <= jumps_at[0] <= 240
    assert abs(line._error) < 3 * MS * SAMPLE_RATE / NS
    assert line.counters.forced_jumps == 0


def test_a_hopeless_error_is_jumped_even_in_speech_and_without_a_click() -> None:
    line, out = DelayLine(), []
    for k in range(300):
        line.push(sine(k * PULL, PULL), k * PULL_NS)
        out.append(line.pull(PULL, k * PULL_NS, 100 * MS if k < 100 else 1100 * MS)[:, 0])
    assert line.counters.forced_jumps == 1
    assert np.abs(np.diff(np.concatenate(out).astype(int))).max() <= largest_step(440)


def test_silence_where_the_source_stops_and_the_right_place_when_it_returns() -> None:
    line, source, out = DelayLine(), noise(4 * SAMPLE_RATE), []
    for k in range(150):
        if not 50 <= k < 90:
            line.push(source[k * PULL : (k + 1) * PULL], k * PULL_NS)
        out.append(line.pull(PULL, k * PULL_NS, 40 * MS)[:, 0])
    heard, lag = np.concatenate(out), 40 * SAMPLE_RATE // 1000
    assert not heard[52 * PULL + 240 : 92 * PULL].any()
    np.testing.assert_array_equal(heard[92 * PULL + 240 : 140 * PULL], source[92 * PULL + 240 - lag : 140 * PULL - lag])
    assert line.counters.underruns == 1


def test_a_restarted_source_with_older_times_is_taken_up() -> None:
    line = DelayLine()
    for k in range(100):
        line.push(sine(k * PULL, PULL), k * PULL_NS if k < 50 else k * PULL_NS - 300 * MS)
        line.pull(PULL, k * PULL_NS, 500 * MS)
    assert line._playing is not None and line.counters.played > 50 * PULL


@pytest.mark.parametrize("ppm", [-200, 200])
def test_drift_never_accumulates(ppm: int) -> None:
    """An hour of a source whose 48 kHz are wrong by 200 ppm: 720 ms of drift, were it not for the slewing."""
    line, worst, per, pushed, capture = DelayLine(), 0.0, 9600, 0, 0
    for k in range(18_000):
        play_ns = k * per * NS // SAMPLE_RATE
        while capture <= play_ns:
            line.push(np.zeros((per, 1), np.int16), capture)
            pushed += 1
            capture = round(pushed * per * NS / SAMPLE_RATE * (1 + ppm * 1e-6))
        line.pull(per, play_ns, 300 * MS)
        if k > 10:
            assert line._playing is not None
            worst = max(worst, abs(line._playing.index_at(play_ns + per * NS // SAMPLE_RATE - 300 * MS) - line._at))
    assert worst < 5 * MS * SAMPLE_RATE / NS
    assert abs(line.counters.slewed - 3600 * SAMPLE_RATE * 200e-6) < SAMPLE_RATE * 0.01
    assert line.counters.underruns == line.counters.jumps == line.counters.forced_jumps == 0


event = st.tuples(
    st.sampled_from(["push", "skip", "back", "ahead", "step"]), st.integers(1, 4000), st.integers(-600 * MS, 600 * MS)
)


@settings(max_examples=40, deadline=None)
@given(events=st.lists(event, min_size=5, max_size=60), pull=st.integers(64, 3000))
def test_whatever_the_source_does_there_is_no_click_and_no_error(events: list[tuple[str, int, int]], pull: int) -> None:
    hertz = 150.0
    line = DelayLine(DelayLineSettings(capacity=2 * SAMPLE_RATE))
    now, capture, delay, written, out = 0, 0, 200 * MS, 0, []
    for what, count, ns in events:
        if what == "step":
            delay = max(0, delay + ns)
        capture += abs(ns) if what in ("skip", "ahead") else -abs(ns) if what == "back" else 0
        if what != "skip":
            line.push(sine(written, count, hertz), capture)
            written, capture = written + count, capture + count * NS // SAMPLE_RATE
        for _ in range(max(1, round((capture - now) * SAMPLE_RATE / NS / pull)) if what == "push" else 1):
            out.append(line.pull(pull, now, delay)[:, 0])
            now += pull * NS // SAMPLE_RATE
            if len(out) > 4000:
                break
    heard = np.concatenate(out).astype(int)
    assert np.abs(np.diff(heard)).max() <= largest_step(hertz)
    assert len(line._segments) <= 32
    assert len(line._ring) == 2 * SAMPLE_RATE and len(line._tail) <= 240


def test_what_is_cleared_fades_out_and_is_not_heard_again() -> None:
    line, out = DelayLine(), []
    delay = 100 * MS
    for k in range(100):
        if k == 50:
            line.clear()
            assert line.silent
        line.push(np.full(PULL, LEVEL if k < 50 else -LEVEL, np.int16), k * PULL_NS)
        out.append(line.pull(PULL, k * PULL_NS, delay)[:, 0].astype(int))
    heard = np.concatenate(out)
    cleared, lag = 50 * PULL, delay * SAMPLE_RATE // NS
    assert heard[cleared - 1] == LEVEL and heard[cleared + 240 :].max() == 0
    assert not heard[cleared + 240 : cleared + lag].any()
    assert heard[cleared + lag + 240] == -LEVEL  # the new speech, as late as ever
    assert np.abs(np.diff(heard[cleared - PULL :])).max() <= LEVEL / 240 + 2
