"""The governor on a simulated engine: one frame at a time, the newest waits, a cost for each rung, a load that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.gear import OWN, Gear
from streaming.clock import MS, NS
from streaming.governor import Budget, Decision, Governor, Hysteresis

TICK_NS = 40 * MS
RULES = Hysteresis(most_hold_ns=40 * NS)  # the tests' streams are short
BUDGET = Budget(250 * MS, 25.0)


@dataclass(frozen=True)
class Load:
    """For so long everything takes so many times as long."""

    seconds: float
    factor: float


def rungs(count: int) -> tuple[Gear, ...]:
    return (OWN, *(Gear(face_every=i) for i in range(2, count + 1)))


def drive(governor: Governor, costs_ms: Sequence[float], loads: Sequence[Load]) -> list[Decision]:
    """What the governor decides while an engine with these costs by rung paints 25 poses a second."""
    decisions: list[Decision] = []
    busy: tuple[int, int] | None = None  # (when it is finished, when it was captured)
    waiting: tuple[int, int] | None = None  # (when it was captured, what it costs)
    now_ns = 0
    for load in loads:
        for _ in range(round(load.seconds * NS / TICK_NS)):
            delays = []
            while busy is not None and busy[0] <= now_ns:
                finished, captured = busy
                delays.append(finished - captured)
                busy = (finished + waiting[1], waiting[0]) if waiting is not None else None
                waiting = None
            decision = governor.observe(now_ns, 1, delays)
            decisions += [decision] if decision is not None else []
            cost = round(costs_ms[governor.status().rung] * load.factor * MS)
            if busy is None:
                busy = now_ns + cost, now_ns
            else:
                waiting = now_ns, cost
            now_ns += TICK_NS
    return decisions


costs = st.lists(st.floats(8.0, 150.0), min_size=1, max_size=5).map(lambda some: sorted(some, reverse=True))
loads = st.lists(st.builds(Load, st.floats(1.0, 25.0), st.floats(0.2, 6.0)), min_size=1, max_size=4)
budgets = st.builds(Budget, st.integers(60, 400).map(lambda ms: ms * MS), st.floats(5.0, 30.0))


@settings(deadline=None, max_examples=40)
@given(costs, loads, budgets, st.integers(1, 8))
def test_whatever_happens_it_moves_rung_by_rung_not_too_often_and_says_why(
    costs_ms: list[float], loads: list[Load], budget: Budget, dwell: int
) -> None:
    ladder, rules = rungs(len(costs_ms)), replace(RULES, dwell_ns=dwell * NS)
    governor = Governor(budget, ladder, rules)
    decisions = drive(governor, costs_ms, loads)
    rung, moved_ns = 0, 0
    for decision in decisions:
        assert decision.from_rung == rung and abs(decision.to_rung - rung) == 1
        after_ns = {"down": rules.down_after_ns, "up": rules.up_after_ns}[decision.direction]
        assert decision.time_ns - moved_ns >= max(rules.dwell_ns, rules.window_ns + after_ns)
        rung, moved_ns = decision.to_rung, decision.time_ns
        assert 0 <= rung < len(ladder) and decision.gear == ladder[rung]
        assert "pictures a second painted" in decision.reason
    status = governor.status()
    assert (status.rung, status.rungs, status.gear) == (rung, len(ladder), ladder[rung])
    assert status.last == (decisions[-1] if decisions else None)
    assert status.decisions["down"] - status.decisions["up"] == rung and sum(status.decisions.values()) == len(
        decisions
    )
    assert drive(Governor(budget, ladder, rules), costs_ms, loads) == decisions  # and always the same


@settings(deadline=None, max_examples=15)
@given(costs, st.floats(1.2, 10.0))
def test_under_an_overload_that_stays_it_ends_on_the_cheapest_and_stays_there(
    costs_ms: list[float], over: float
) -> None:
    """Even the cheapest is too slow."""
    governor = Governor(BUDGET, rungs(len(costs_ms)), RULES)
    decisions = drive(governor, costs_ms, [Load(40, over * 40 / costs_ms[-1])])
    assert governor.status().rung == len(costs_ms) - 1
    assert [decision.direction for decision in decisions] == ["down"] * (len(costs_ms) - 1)
    assert "too few pictures" in governor.status().over  # nothing cheaper is left, and that is said


@settings(deadline=None, max_examples=15)
@given(costs, loads)
def test_when_the_load_is_gone_it_returns_to_the_best_and_stays(costs_ms: list[float], loads: list[Load]) -> None:
    governor = Governor(BUDGET, rungs(len(costs_ms)), RULES)
    decisions = drive(governor, costs_ms, [*loads, Load(100, 30 / costs_ms[0])])
    assert governor.status().rung == 0 and governor.status().over == ""
    before_ns = round((sum(load.seconds for load in loads) + 4) * NS)  # what was decided of the load may follow it
    climbs = [decision for decision in decisions if decision.time_ns > before_ns]
    assert all(decision.direction == "up" for decision in climbs)
    patience_ns = RULES.window_ns + RULES.up_after_ns
    assert all(b.time_ns - a.time_ns >= patience_ns for a, b in pairwise(climbs))


def test_a_rung_that_does_not_hold_is_tried_less_and_less_often() -> None:
    governor = Governor(BUDGET, rungs(2), replace(RULES, most_hold_ns=320 * NS))
    decisions = drive(governor, [60.0, 20.0], [Load(900, 1.0)])
    climbs = [decision.time_ns for decision in decisions if decision.direction == "up"]
    gaps = [b - a for a, b in pairwise(climbs)]
    assert len(climbs) >= 4
    assert all(b > 1.5 * a for a, b in pairwise(gaps) if b < 300 * NS)
    assert [d.direction for d in decisions] == ["down", *["up", "down"] * len(climbs)][: len(decisions)]
    assert "back after 10 s" in decisions[0].reason and "back after 20 s" in decisions[2].reason


def test_a_rung_that_held_for_long_is_tried_again_as_soon_as_at_first() -> None:
    governor = Governor(BUDGET, rungs(2), RULES)
    fine, bad = Load(60, 1.0), Load(12, 3.0)
    decisions = drive(governor, [30.0, 10.0], [fine, bad, fine, bad, fine])
    assert [d.direction for d in decisions] == ["down", "up", "down", "up"]
    assert all("back after 10 s" in d.reason for d in decisions if d.direction == "down")


def test_pictures_that_are_late_count_as_much_as_those_that_are_missing() -> None:
    governor = Governor(Budget(50 * MS, 10.0), rungs(2), RULES)
    (decision,) = drive(governor, [60.0, 20.0], [Load(6, 1.0)])  # 16 a second, where 10 are asked for
    assert decision.reason.startswith("too late: ") and "of 50 ms" in decision.reason and decision.direction == "down"


def test_inside_by_a_hair_is_no_room_to_climb() -> None:
    governor = Governor(Budget(45 * MS, 10.0), rungs(2), RULES)
    assert [d.direction for d in drive(governor, [60.0, 39.0], [Load(60, 1.0)])] == ["down"]
    assert governor.status().over == ""


@pytest.mark.parametrize("submitted", [0, 1])
def test_where_no_poses_come_nothing_is_over_budget(submitted: int) -> None:
    governor = Governor(BUDGET, rungs(3), RULES)
    decisions = [governor.observe(tick * TICK_NS, submitted, []) for tick in range(1000)]
    assert any(decisions) == bool(submitted)  # where some come and no picture does, it goes down
    assert bool(governor.status().over) == bool(submitted)


def test_a_short_hiccup_moves_nothing() -> None:
    assert drive(Governor(BUDGET, rungs(3), RULES), [20.0, 10.0, 5.0], [Load(10, 1), Load(0.1, 4), Load(10, 1)]) == []


def test_what_cannot_be_governed_is_refused() -> None:
    with pytest.raises(ValueError, match="a ladder needs a rung"):
        Governor(BUDGET, ())
    with pytest.raises(ValueError, match="a budget must be positive"):
        Budget(0, 25.0)
