"""Plans of windows against the published ones, whatever the sizes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.windows import Plan, Run, covering, windows


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_are_the_published_ones(frames: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    plan = windows(frames, size, overlap)
    assert {f for w in plan for f in w} == set(range(frames))
    assert [w.start for w in plan] == list(range(0, frames, size - overlap))
    assert all(len(w) == min(size, frames - w.start) for w in plan)
    assert all(covering(f, size, overlap) == sum(f in w for w in plan) for f in range(frames))


@pytest.mark.parametrize(("size", "overlap", "steps"), [(4, 4, 1), (4, -1, 1), (0, 0, 1), (4, 1, 0)])
def test_windows_that_never_advance_are_refused(size: int, overlap: int, steps: int) -> None:
    with pytest.raises(ValueError, match="overlap" if steps else "steps"):
        Plan(size, overlap, steps)
    if steps:
        with pytest.raises(ValueError, match="overlap"):
            windows(10, size, overlap)


class Stream:
    """Follows a plan as a denoiser would: at which step each frame stands, and who has seen it there."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.at: list[int] = []
        self.seen: dict[tuple[int, int], int] = {}  # frame and step: windows
        self.runs: list[Run] = []
        self.left: list[int] = []

    def arrive(self) -> None:
        self.at.append(0)
        self.take(self.plan.arrive())
        waiting = len(self.at) - 1 - len(self.left)  # frame len(left) is the oldest inside
        assert waiting < max(1, self.plan.delay)

    def take(self, runs: list[Run]) -> None:
        arrived = len(self.at)
        finished = 0
        for run in runs:
            assert len(run.window) > 0
            assert run.window.stop <= arrived  # nothing is seen before it is there,
            assert arrived - run.window.start <= self.plan.reach  # or after its memory is free
            for frame in run.window:
                assert self.at[frame] == run.step
                self.seen[frame, run.step] = self.seen.get((frame, run.step), 0) + 1
            for frame in run.moved:
                assert self.seen[frame, run.step] == covering(frame, self.plan.size, self.plan.overlap)
                self.at[frame] += 1
                if self.at[frame] == self.plan.steps:
                    self.left.append(frame)
                    finished += 1
        self.runs += runs
        assert finished <= self.plan.burst or self.at == [self.plan.steps] * arrived

    def check(self) -> None:
        """After the end: every window once at every step, in the published order; every frame out, in order."""
        frames = len(self.at)
        assert self.left == list(range(frames))
        published = windows(frames, self.plan.size, self.plan.overlap)
        for step in range(self.plan.steps):
            assert [run.window for run in self.runs if run.step == step] == published


sizes = st.integers(1, 20).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


@settings(max_examples=300, deadline=None)
@given(sizes, st.integers(1, 5), st.lists(st.integers(0, 70), min_size=1, max_size=3), st.booleans())
def test_a_stream_runs_every_published_window_once_at_every_step(
    window: tuple[int, int], steps: int, lengths: list[int], cut_off: bool
) -> None:
    plan = Plan(*window, steps)
    for length in lengths:
        stream = Stream(plan)
        for _ in range(length):
            stream.arrive()
        if cut_off and length:
            plan.reset()  # the next stream finds nothing of this one
        else:
            stream.take(plan.end())
            stream.check()


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(1, 5))
def test_the_delay_is_reached_and_never_passed(window: tuple[int, int], steps: int) -> None:
    plan = Plan(*window, steps)
    stream, longest = Stream(plan), 0
    for now in range(6 * plan.delay + 6):
        before = len(stream.left)
        stream.arrive()
        longest = max(longest, *(now - frame for frame in stream.left[before:]), 0)
    assert longest == plan.delay


def test_the_delay_of_the_papers_windows() -> None:
    """Windows of 16 that share 4: (steps - 1) (16 - 4) + 16 - 1 frames."""
    assert [Plan(16, 4, steps).delay for steps in (1, 2, 4, 20)] == [15, 27, 51, 243]
