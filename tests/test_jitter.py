"""Sender clocks, sequence numbers, the jitter buffer and its concealment, on simulated networks."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.pose import PoseFrame
from engine.rotation import axis_angle_to_quaternion, inverse, multiply, quaternion_to_axis_angle
from streaming.clock import MS, NS
from streaming.clock_sync import ClockSync, lower_line
from streaming.concealment import Difference, standing
from streaming.jitter import JitterBuffer
from streaming.messages import PoseMessage, SpeechMessage
from streaming.sequence import Sequence
from tests.simulated_network import BASE, FPS, HEAD, Path, message, motion

TICK = 40 * MS


def run(buffer: JitterBuffer, arrivals: list[tuple[int, PoseMessage]], end_ns: int) -> list[tuple[int, PoseFrame, str]]:
    """Every tick's (now, sample, state), with the messages pushed as they arrive."""
    waiting, out = sorted(arrivals, key=lambda a: a[0]), []
    for now in range(0, end_ns, TICK):
        while waiting and waiting[0][0] <= now:
            arrival, one = waiting.pop(0)
            buffer.push(one, arrival)
        frame = buffer.sample(now)
        if frame is not None:
            out.append((now, frame, buffer.state))
    return out


def angle(a: PoseFrame, b: PoseFrame) -> float:
    """The largest turn of any joint from a to b, radians."""
    qa, qb = (axis_angle_to_quaternion(f.pose.reshape(-1, 3)) for f in (a, b))
    return float(np.linalg.norm(quaternion_to_axis_angle(multiply(qb, inverse(qa))), axis=-1).max())


def check_smooth(shown: list[tuple[int, PoseFrame, str]], most: float) -> None:
    """Times go forward, and no joint turns by more than `most` radians from one tick to the next."""
    for (_, a, _), (_, b, _) in pairwise(shown):
        assert b.time_ns > a.time_ns
        assert angle(a, b) <= most
        assert np.isfinite(b.pose).all() and np.isfinite(b.expression).all() and np.isfinite(b.transl).all()


# -- sequence numbers --------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 60), max_size=80), st.sampled_from([0, 5, (1 << 32) - 20]))
def test_sequence_counts_as_a_set_would(numbers: list[int], start: int) -> None:
    sequence, seen = Sequence(), set[int]()
    for n in numbers:
        got = sequence.take((start + n) % (1 << 32))
        assert got == ("duplicate" if n in seen else "new" if not seen or n > max(seen) else "late")
        seen.add(n)
    if seen:
        first = numbers[0]
        holes = {n for n in range(first, max(seen)) if n not in seen}
        fills = {n for n in seen if n < first}
        assert sequence.lost == len(holes) - len(fills)


# -- clocks ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 10**11), st.integers(0, 10**8)), min_size=1, max_size=60))
def test_the_lower_line_lies_under_every_point(points: list[tuple[int, int]]) -> None:
    offset, skew = lower_line(points, 20 * NS, 500e-6)
    assert abs(skew) <= 500e-6
    assert all(offset + skew * x <= y + 1 for x, y in points)


@pytest.mark.parametrize("skew", [-200e-6, -50e-6, 0.0, 200e-6])
@pytest.mark.parametrize("seed", range(3))
def test_offset_and_skew_of_a_jittery_sender_are_found(skew: float, seed: int) -> None:
    path, sync = Path(seconds=180, seed=seed, skew=skew, jitter_ns=20 * MS, loss=0.2), ClockSync()
    errors = []
    for arrival, one in sorted(path.arrivals(), key=lambda a: a[0]):
        sync.push(one.capture_ns, arrival)
        true_ns = (one.capture_ns - path.offset_ns) / (1.0 + skew)
        errors.append(sync.to_server(one.capture_ns) - true_ns - BASE)
    settled = np.abs(errors[30 * FPS :])
    assert settled.max() < 6 * MS
    assert abs(sync.skew + skew) < 60e-6  # the server's clock against the sender's is the opposite


def test_a_longer_path_is_accepted_after_a_while() -> None:
    sync, late = ClockSync(), []
    for i in range(600):
        longer = 200 * MS if i >= 300 else 0
        late.append(sync.push(i * 33 * MS, i * 33 * MS + BASE + longer))
    assert late[310] > 150 * MS and abs(late[-1]) < 10 * MS


# -- the buffer --------------------------------------------------------------------------------------------------------


def test_without_trouble_the_motion_comes_out_as_it_went_in() -> None:
    path, buffer = Path(seconds=20, jitter_ns=0), JitterBuffer()
    shown = run(buffer, list(path.arrivals()), 19 * NS)
    for now, frame, state in shown[25:]:
        assert state == "live"
        pose, expression, transl = motion((frame.time_ns - BASE) / NS)
        assert frame.time_ns == now - buffer.delay_ns or abs(frame.time_ns - now) < 100 * MS
        np.testing.assert_allclose(frame.pose, pose, atol=2e-3)
        np.testing.assert_allclose(frame.expression, expression, atol=0.02)
        np.testing.assert_allclose(frame.transl, transl, atol=1e-3)
    assert buffer.counters.lost == buffer.counters.late == buffer.counters.duplicate == 0
    assert buffer.delay_ns < 45 * MS  # one interval and next to nothing


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    skew=st.floats(-200e-6, 200e-6),
    jitter=st.integers(0, 40),
    loss=st.sampled_from([0.0, 0.05, 0.2]),
    twice=st.sampled_from([0.0, 0.3]),
    sequence=st.sampled_from([0, (1 << 32) - 100]),
)
def test_on_a_bad_network_time_and_motion_stay_smooth(
    seed: int, skew: float, jitter: int, loss: float, twice: float, sequence: int
) -> None:
    path = Path(8, seed, skew, jitter_ns=jitter * MS, loss=loss, twice=twice, sequence=sequence)
    buffer = JitterBuffer()
    shown = run(buffer, list(path.arrivals()), 9 * NS)
    check_smooth(shown, 0.25)
    errors = []
    for _, frame, _ in shown[50:195]:
        errors.append(np.abs(frame.pose - motion((frame.time_ns - BASE) / NS)[0]).max())
    assert np.median(errors) < 0.05 and max(errors) < 0.3  # the head turns at up to 1.5 rad/s
    counters = buffer.counters
    assert counters.received == sum(1 for _ in path.arrivals())
    assert abs(counters.lost - 240 * loss) < 60 and not counters.refused
    assert len(buffer._frames) <= buffer.settings.capacity


def test_a_silent_sender_is_extrapolated_held_eased_to_idle_and_taken_up_again_without_a_jump() -> None:
    idle = replace_head(standing(), 0.9)
    buffer = JitterBuffer(idle=idle)
    path = Path(seconds=10, jitter_ns=2 * MS)
    arrivals = [(t, m) for t, m in path.arrivals() if not 3 * NS < t < 6 * NS]
    shown = run(buffer, arrivals, 9 * NS)
    states = [state for _, _, state in shown]
    order = [s for s, before in zip(states, ["", *states], strict=False) if s != before]
    assert order[-6:] == ["live", "extrapolated", "held", "easing", "idle", "live"]
    gone = [(now, f) for now, f, s in shown if s == "idle"]
    assert gone[0][0] < 3 * NS + 1000 * MS + 200 * MS
    np.testing.assert_allclose(gone[-1][1].pose[3:], idle.pose[3:], atol=1e-6)
    np.testing.assert_allclose(gone[-1][1].transl, motion(3.0)[2], atol=0.01)  # the person stays in place
    check_smooth(shown, 0.25)
    assert angle(shown[-1][1], PoseFrame(0, *motion((shown[-1][1].time_ns - BASE) / NS))) < 0.02


def replace_head(frame: PoseFrame, nod: float) -> PoseFrame:
    pose = frame.pose.copy()
    pose[HEAD] = (nod, 0.0, 0.0)
    return PoseFrame(frame.time_ns, pose, frame.expression, frame.transl)


@pytest.mark.parametrize("gap", [0, 2 * NS])
@pytest.mark.parametrize("new_session", [True, False])
def test_a_restarted_sender_is_taken_up(gap: int, new_session: bool) -> None:
    """With a new session it must first be silent long enough; with the old one its count and clock begin anew."""
    first = Path(seconds=4, jitter_ns=5 * MS)
    begin = 4 * NS + gap
    again = Path(5, 1, offset_ns=99 * NS, jitter_ns=5 * MS, begin_ns=begin, session=2 if new_session else 1)
    buffer = JitterBuffer()
    shown = run(buffer, [*first.arrivals(), *again.arrivals()], begin + 5 * NS)
    assert buffer.counters.restarts == 1
    check_smooth(shown, 0.25)
    live = [now for now, _, state in shown if state == "live" and now > begin]
    assert live[0] < begin + 900 * MS
    _, frame, _ = shown[-1]
    assert angle(frame, PoseFrame(0, *motion((frame.time_ns - BASE) / NS))) < 0.03


def test_a_second_sender_does_not_disturb_the_first() -> None:
    one, two = Path(5, 0, jitter_ns=3 * MS), Path(5, 1, jitter_ns=3 * MS, session=2, begin_ns=NS)
    alone, both = JitterBuffer(), JitterBuffer()
    a = run(alone, list(one.arrivals()), 5 * NS)
    b = run(both, [*one.arrivals(), *two.arrivals()], 5 * NS)
    assert both.sender == 1 and both.counters.refused["session"] > 100 and both.counters.restarts == 0
    assert all(angle(x, y) < 1e-6 for (_, x, _), (_, y, _) in zip(a, b, strict=True))


def test_one_message_out_of_place_changes_nothing() -> None:
    arrivals = list(Path(3, jitter_ns=2 * MS).arrivals())
    stray = message(0.0, 40, 10**15)
    far = message(0.0, 1 << 31, arrivals[50][1].capture_ns)
    buffer = JitterBuffer()
    run(buffer, [*arrivals, (1500 * MS, stray), (1700 * MS, far)], 3 * NS)
    assert buffer.counters.refused["jump"] == 2 and buffer.counters.restarts == 0 and buffer.counters.lost == 0


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [("pose", np.nan, "nan"), ("transl", np.inf, "nan"), ("pose", 1e9, "huge"), ("expression", -1e4, "huge")],
)
def test_nonsense_is_refused_by_reason(part: str, value: float, reason: str) -> None:
    buffer, good = JitterBuffer(), message(0.0, 0, 0)
    bad = getattr(good, part).copy()
    bad[-1] = value
    assert not buffer.push(replace(good, **{part: bad}), BASE)
    assert buffer.counters.refused == {reason: 1} and buffer.sample(NS) is None
    assert buffer.push(good, BASE)


def test_parts_of_a_wrong_shape_are_refused() -> None:
    buffer = JitterBuffer()
    assert not buffer.push(PoseMessage(1, 0, 0, pose=np.zeros(66, np.float32)), 0)
    assert not buffer.push(PoseMessage(1, 0, 0, betas=np.zeros(0, np.float32)), 0)
    assert buffer.counters.refused == {"shape": 2}


def test_what_a_sender_leaves_out_is_that_of_idle() -> None:
    buffer = JitterBuffer()
    pose = motion(0.3)[0]
    assert buffer.push(PoseMessage(1, 0, 0, pose=pose, betas=np.ones(4, np.float32)), 0)
    frame = buffer.sample(NS // 10)
    assert frame is not None and not frame.expression.any()
    np.testing.assert_array_equal(frame.pose, pose)
    assert buffer.betas is not None and len(buffer.betas) == 4


def test_speech_is_brought_to_the_same_clock_as_the_poses() -> None:
    path, buffer = Path(seconds=3, jitter_ns=3 * MS), JitterBuffer()
    run(buffer, list(path.arrivals()), 3 * NS)
    samples = np.zeros(480, np.int16)
    at = 2900 * MS
    aligned = buffer.align(SpeechMessage(1, 0, path.sender_time(at), samples), 3 * NS)
    assert aligned is not None and abs(aligned - at - BASE) < 5 * MS
    assert buffer.align(SpeechMessage(2, 0, path.sender_time(at), samples), 3 * NS) is None
    assert buffer.align(SpeechMessage(1, 0, path.sender_time(at) - 5 * NS, samples), 3 * NS) is None


chaos = st.tuples(
    st.integers(0, 2), st.integers(0, (1 << 32) - 1), st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 300 * MS)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(chaos, max_size=120), st.booleans())
def test_anything_may_be_pushed(messages: list[tuple[int, int, int, int]], near: bool) -> None:
    buffer, now, last = JitterBuffer(), 0, None
    for i, (session, sequence, capture, passed) in enumerate(messages):
        now += passed
        if near:  # plausible numbers, so that more of them get in
            sequence, capture = sequence % 300, now + capture % (2 * NS)
        buffer.push(message(i / FPS, sequence, capture, session), now)
        frame = buffer.sample(now)
        if frame is not None:
            assert last is None or frame.time_ns >= last
            last = frame.time_ns
    assert buffer.counters.received == len(messages)
    assert len(buffer._frames) <= buffer.settings.capacity


def test_a_difference_turns_the_true_pose_into_the_shown_one_and_back() -> None:
    a, b = PoseFrame(5, *motion(0.2)), PoseFrame(5, *motion(1.4))
    difference = Difference.between(a, b)
    assert angle(difference.apply(b, 1.0), a) < 1e-3 and angle(difference.apply(b, 0.0), b) < 1e-3
    half = difference.apply(b, 0.5)
    assert abs(angle(half, a) - angle(half, b)) < 1e-3
