"""The pipeline under stress, with stages that only take time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest
import structlog
from fakes import FakeEngine, FakeStage, fake_engine, pose_frame

from engine.gear import OWN, Gear
from engine.picture import Picture
from streaming.pipeline import GROUPS, Pipeline
from streaming.queues import OVERTAKEN

FRAME = pose_frame(0)


def wait(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def settled(pipeline: Pipeline) -> bool:
    return wait(lambda: pipeline.submitted == pipeline.finished + sum(pipeline.drops().values()))


def at(time_ns: int) -> object:
    return type(FRAME)(time_ns, FRAME.pose, FRAME.expression, FRAME.transl)


def test_every_frame_of_a_patient_sender_comes_out_in_order() -> None:
    out: list[Picture] = []
    pipeline = Pipeline(fake_engine(), out.append)
    pipeline.start()
    for i in range(50):
        pipeline.submit(at(i))
        assert wait(lambda i=i: pipeline.finished == i + 1)
    assert [p.index for p in out] == [p.capture_ns for p in out] == list(range(50))
    assert set(out[0].stage_ns) == {"body", "denoise", "decode"}
    assert pipeline.drops() == pipeline.restarts() == {}
    assert pipeline.stop()


@pytest.mark.parametrize("slow", ["body", "denoise", "decode"])
def test_a_slow_stage_makes_gaps_and_no_delay(slow: str) -> None:
    """Ten times too many frames: each that comes out waited for a few turns of the slow stage."""
    turn, out = 0.02, []
    pipeline = Pipeline(
        fake_engine(**{slow: turn}),
        lambda p: out.append((p.index, time.monotonic_ns() - p.capture_ns)),
    )
    pipeline.start()
    for _ in range(300):
        pipeline.submit(at(time.monotonic_ns()))
        time.sleep(turn / 10)
    assert settled(pipeline)
    indices = [index for index, _ in out]
    assert indices == sorted(set(indices))
    assert indices[-1] == 299  # the newest always wins
    delays = sorted(delay for _, delay in out)
    assert delays[len(delays) // 2] < 8 * turn * 1e9
    assert sum(pipeline.drops().values()) + len(out) == 300
    assert all(reason.endswith(OVERTAKEN) for reason in pipeline.drops())
    door = next(group[0] for group in GROUPS if slow in group)  # stages that share a thread share the door before it
    assert any(reason.startswith(door) for reason in pipeline.drops())
    assert pipeline.stop()


def test_bursts_are_not_dropped_by_their_own_size() -> None:
    out: list[int] = []
    engine = fake_engine(burst=4, decode=0.002)
    pipeline = Pipeline(engine, lambda p: out.append(p.index))
    pipeline.start()
    for i in range(40):
        pipeline.submit(FRAME)
        assert wait(lambda i=i: len(engine.stages[1].seen) == i + 1 and len(out) == (i + 1) // 4 * 4)
    assert out == list(range(40))
    assert pipeline.stop()


@pytest.mark.parametrize("seed", range(5))
def test_no_frame_of_an_old_epoch_leaves_after_the_new_one_began(seed: int) -> None:
    rng = random.Random(seed)
    engine = fake_engine(
        0.001 * rng.random(),
        0.002 * rng.random(),
        0.001 * rng.random(),
        burst=rng.choice([1, 2, 3]),
    )
    current, wrong, seen = [0], [], set()

    def on_picture(picture: Picture) -> None:
        seen.add(picture.epoch)
        if picture.epoch < current[0]:
            wrong.append(picture)

    pipeline = Pipeline(engine, on_picture)
    pipeline.start()
    stop = threading.Event()

    def sender() -> None:
        while not stop.is_set():
            pipeline.submit(FRAME)
            time.sleep(0.0003)

    senders = [threading.Thread(target=sender) for _ in range(2)]
    for thread in senders:
        thread.start()
    for _ in range(40):
        time.sleep(0.01 * rng.random())
        current[0] = pipeline.reset()
    time.sleep(0.05)
    stop.set()
    for thread in senders:
        thread.join()
    assert wrong == []
    assert pipeline.epoch == 40
    assert len(seen) > 5
    for stage in engine.stages:
        assert [epoch for epoch, _ in stage.seen] == sorted(epoch for epoch, _ in stage.seen)
    pipeline.stop()
    assert pipeline.submitted == pipeline.finished + sum(pipeline.drops().values())


def test_indices_begin_anew_and_stages_are_reset_with_an_epoch() -> None:
    out: list[tuple[int, int]] = []
    engine = fake_engine()
    pipeline = Pipeline(engine, lambda p: out.append((p.epoch, p.index)))
    pipeline.start()
    for epoch in range(3):
        for i in range(4):
            pipeline.submit(FRAME)
            assert wait(lambda n=4 * epoch + i + 1: len(out) == n)
        pipeline.reset()
    assert out == [(e, i) for e in range(3) for i in range(4)]
    assert [stage.resets for stage in engine.stages] == [
        2,
        2,
        2,
    ]  # as the first frame of epochs 1 and 2 came
    assert pipeline.stop()


def test_each_frame_keeps_the_gear_that_it_was_submitted_in() -> None:
    out: list[Gear] = []
    pipeline = Pipeline(fake_engine(), lambda p: out.append(p.gear))
    pipeline.start()
    gears = [OWN, Gear(face_every=2), Gear(steps=1), OWN]
    for i, gear in enumerate(gears):
        pipeline.submit(FRAME, gear)
        assert wait(lambda i=i: len(out) == i + 1)
    pipeline.submit(FRAME)
    assert wait(lambda: len(out) == 5) and out == [*gears, OWN]
    assert pipeline.stop()


def test_a_crashed_stage_begins_anew_and_is_counted() -> None:
    out: list[int] = []
    crash = FakeStage("denoise", crashes=lambda work: work.index % 3 == 1)
    engine = FakeEngine([FakeStage("body"), crash, FakeStage("decode")])
    pipeline = Pipeline(engine, lambda p: out.append(p.index))
    pipeline.start()
    with structlog.testing.capture_logs() as logs:
        for i in range(12):
            pipeline.submit(FRAME)
            assert wait(lambda i=i: len(out) + sum(pipeline.drops().values()) == i + 1)
    assert out == [i for i in range(12) if i % 3 != 1]
    assert pipeline.restarts() == {"denoise": 4}
    assert pipeline.drops() == {"denoise: crashed": 4}
    assert crash.resets == 4
    assert [entry["crashes"] for entry in logs] == [1, 2, 4]  # not one line a frame
    assert pipeline.stop()


def test_a_callback_that_raises_stops_nothing() -> None:
    seen: list[int] = []

    def on_picture(picture: Picture) -> None:
        seen.append(picture.index)
        if picture.index == 1:
            raise RuntimeError("the viewer left")

    pipeline = Pipeline(fake_engine(), on_picture)
    pipeline.start()
    with structlog.testing.capture_logs():
        for i in range(4):
            pipeline.submit(FRAME)
            assert wait(lambda i=i: len(seen) == i + 1)
    assert wait(lambda: pipeline.finished == 3)
    assert pipeline.drops() == {"exit: crashed": 1}
    assert pipeline.stop()


def test_a_callback_may_reset() -> None:
    epochs: list[int] = []

    def on_picture(picture: Picture) -> None:
        epochs.append(picture.epoch)
        pipeline.reset()

    pipeline = Pipeline(fake_engine(), on_picture)
    pipeline.start()
    for i in range(5):
        pipeline.submit(FRAME)
        assert wait(lambda i=i: len(epochs) == i + 1)
    assert epochs == list(range(5))
    assert pipeline.stop()


def test_it_stops_while_frames_are_on_their_way() -> None:
    pipeline = Pipeline(fake_engine(0.05, 0.05, 0.05, burst=2), lambda p: None)
    pipeline.start()
    for _ in range(20):
        pipeline.submit(FRAME)
        time.sleep(0.005)
    assert pipeline.stop()
    assert not any(thread.name.startswith("liveanchor-") for thread in threading.enumerate())
    pipeline.submit(FRAME)  # harmless
    assert pipeline.submitted == pipeline.finished + sum(pipeline.drops().values())


def test_stopping_what_never_started_is_harmless() -> None:
    assert Pipeline(fake_engine(), lambda p: None).stop()


def test_any_grouping_of_the_stages_in_order_will_do() -> None:
    for groups in (
        [["body", "denoise", "decode"]],
        [["body"], ["denoise", "face", "decode"]],
        [["body"], ["denoise"], ["decode"], ["face"]],
    ):
        out: list[Picture] = []
        pipeline = Pipeline(fake_engine(), out.append, groups)
        pipeline.start()
        pipeline.submit(FRAME)
        assert wait(lambda out=out: len(out) == 1)
        assert pipeline.stop()
    for groups in ([["denoise", "body", "decode"]], [["body"], ["denoise"]]):
        with pytest.raises(ValueError, match="in order"):
            Pipeline(fake_engine(), lambda p: None, groups)
