"""Newest wins: against a plain model, and between threads."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.queues import CLOSED, OVERTAKEN, STALE, Door, NewestWins

_actions = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3)),
        st.tuples(st.just("begin"), st.integers(0, 3)),
        st.just(("take", 0)),
    ),
    max_size=60,
)


@given(st.integers(1, 4), _actions)
def test_it_keeps_the_newest_of_the_newest_epoch_and_counts_the_rest(
    capacity: int, actions: list[tuple[str, int]]
) -> None:
    queue: NewestWins[tuple[int, int]] = NewestWins(capacity)
    model: list[tuple[int, int]] = []
    epoch = number = taken = 0
    for action, value in actions:
        if action == "take":
            expected = model.pop(0) if model else None
            taken += expected is not None
            assert queue.take() == expected
            continue
        epoch = max(epoch, value)
        model = [item for item in model if item[1] == epoch]
        if action == "put":
            number += 1
            assert queue.put((number, value), value) == (value == epoch)
            if value == epoch:
                model = [*model, (number, value)][-capacity:]
        else:
            queue.begin(value)
        assert len(queue) == len(model) <= capacity
    assert number == taken + len(queue) + queue.drops[OVERTAKEN] + queue.drops[STALE]


def test_a_queue_holds_something() -> None:
    with pytest.raises(ValueError, match="capacity"):
        NewestWins(0)


def test_a_door_passes_items_on_in_order() -> None:
    door: Door[int] = Door(1000)
    got: list[int] = []

    def reader() -> None:
        while (item := door.take()) is not None:
            got.append(item)

    thread = threading.Thread(target=reader)
    thread.start()
    for i in range(500):
        assert door.put(i, 0)
    deadline = time.monotonic() + 5
    while len(got) < 500 and time.monotonic() < deadline:
        time.sleep(0.005)
    door.close()
    thread.join(5)
    assert not thread.is_alive()
    assert got == list(range(500))


def test_a_slow_reader_gets_the_newest_and_the_count_adds_up() -> None:
    door: Door[int] = Door(2)
    for i in range(10):
        door.put(i, 0)
    assert [door.take(0), door.take(0), door.take(0)] == [8, 9, None]
    assert door.drops() == {OVERTAKEN: 8}


def test_an_old_epoch_does_not_pass() -> None:
    door: Door[str] = Door(4)
    door.put("old", 0)
    door.begin(1)
    assert not door.put("late", 0)
    assert door.put("new", 1)
    assert door.take(0) == "new"
    assert door.drops() == {STALE: 2}


def test_a_closed_door_lets_waiters_go_and_nobody_in() -> None:
    door: Door[int] = Door()
    released = threading.Event()

    def reader() -> None:
        assert door.take() is None
        released.set()

    thread = threading.Thread(target=reader)
    thread.start()
    door.close()
    thread.join(5)
    assert released.is_set()
    assert door.closed
    assert not door.put(1, 0)
    assert door.take() is None


def test_a_door_that_keeps_waits_for_room_and_ends_after_the_last() -> None:
    door: Door[int] = Door(2)
    got: list[int] = []

    def writer() -> None:
        for i in range(200):
            door.put(i, 0)
        door.end()

    door.keep()
    thread = threading.Thread(target=writer)
    thread.start()
    while (item := door.take(5)) is not None:
        got.append(item)
    thread.join(5)
    assert got == list(range(200)) and not door.closed
    assert not door.put(200, 0)
    assert door.drops() == {CLOSED: 1}


@pytest.mark.parametrize("leave", ["close", "begin"])
def test_whoever_waits_for_room_is_let_go(leave: str) -> None:
    door: Door[int] = Door()
    door.keep()
    door.put(0, 0)
    thread = threading.Thread(target=lambda: door.put(1, 0))
    thread.start()
    if leave == "close":
        door.close()
    else:
        door.begin(1)
    thread.join(5)
    assert not thread.is_alive()
    assert sum(door.drops().values()) == 2 and door.take(0) is None
