"""Recording beside a running pipeline, on discs that are good, slow and full."""

from __future__ import annotations

import errno
import io
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import structlog
from fakes import FakeNetwork, fake_engine, pose_frame
from test_live import FACE, LATENT, an_avatar, bank_network, diffusion_network, face_networks, networks
from test_pose_log import FIELDS

from engine.avatar import DenoiseFields, FaceFields, LatentFields
from engine.body import Body
from engine.errors import InputError
from engine.gear import OWN, Gear
from engine.live import LiveEngine, load_body
from engine.picture import Picture
from engine.pose_log import EVENTS_FILE, Event, Kind, PoseLog, read_events
from engine.work import Stage, Work
from streaming.pipeline import Pipeline, grouped
from streaming.recorder import Backlog, Recorder, Recording, check_place
from streaming.relay import Relay
from streaming.render import in_time


def wait(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def submit_until(
    enough: Callable[[], bool],
    pipeline: Pipeline | Relay,
    resets: Callable[[int], bool],
    pause: Callable[[], float],
    gears: Callable[[], Gear] = lambda: OWN,
) -> bool:
    """Poses of a walk, with resets and pauses (seconds) among them; whether there was enough within two minutes."""
    deadline = time.monotonic() + 120
    for i in count():
        if enough() or time.monotonic() > deadline:
            break
        pipeline.submit(walking(i), gears())
        if resets(i):
            pipeline.reset()
        time.sleep(pause())
    return enough()


def work(index: int, epoch: int = 0) -> Work:
    return Work(index, epoch, pose_frame(index, index))


# A show with everything that goes wrong, and the same engine again.


@dataclass
class Rough:
    """A stage that is late at random, and at random raises before or after it has done its work."""

    inner: Stage
    rng: random.Random
    late: float
    name: str = field(init=False)
    crashes: int = 0

    def __post_init__(self) -> None:
        self.name = self.inner.name

    def __call__(self, work: Work) -> list[Work]:
        time.sleep(self.rng.random() * self.late)
        self._stumble(0.03)
        works = self.inner(work)
        self._stumble(0.03)
        return works

    def _stumble(self, chance: float) -> None:
        if self.rng.random() < chance:
            self.crashes += 1
            raise RuntimeError("stumbled")

    def flush(self) -> list[Work]:
        self._stumble(0.03)
        return self.inner.flush()

    def reset(self) -> int:
        return self.inner.reset()


@dataclass
class RoughEngine:
    stages: list[Rough]
    burst: int


def stumbling(network: FakeNetwork, rng: random.Random) -> FakeNetwork:
    """A network that raises at random, so that stages are left with their work half done."""
    formula = network.formula

    def rough(given: dict[str, np.ndarray]) -> object:
        if rng.random() < 0.03:
            raise RuntimeError("out of memory")
        return formula(given)

    return replace(network, formula=rough, _memory={})  # type: ignore[arg-type]


KINDS = ("window", "hop", "bank", "face", "exact", "gears", "exact gears")
GEARS = (Gear(steps=1), Gear(hop=2, face_every=2), Gear(steps=1, face_every=0), Gear(face_every=3))


def an_engine(kind: str, body: Body, rng: random.Random | None = None) -> LiveEngine:
    """Engines whose pictures depend on what they painted before. With `rng` their networks raise now and then."""
    fields = DenoiseFields((999, 499), "sample", noise="per-frame")
    table, more = networks(3), {"context": 2}
    if kind == "hop":
        more = {"context": 1, "hop": 2}
    elif kind == "bank":
        fields, more, table = replace(fields, mode="bank", context=2), {}, networks() | {"body_bank": bank_network()}
    elif kind.startswith("exact"):
        more = {"mode": "exact", "window": 3, "overlap": 1}
        table |= networks(2) | networks(1)
    elif kind == "gears":
        table |= {"body_w4": diffusion_network(4, LATENT, 4)}
    avatar = an_avatar(denoise=fields)
    more["gears"] = GEARS if kind.endswith("gears") else ()
    if kind == "face" or kind.endswith("gears"):
        again = FaceFields(True, FACE, latent=LatentFields(3, FACE // 16), denoise=DenoiseFields((999,), "sample"))
        avatar, table = replace(avatar, face=again), table | face_networks()
    if rng is not None:
        table = {name: stumbling(network, rng) for name, network in table.items()}
    return LiveEngine(avatar, table, seed=3, body=body, **more)


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body(an_avatar())


def walking(i: int) -> object:
    """A performer who walks and turns, so that the staging of the root matters."""
    frame = pose_frame(i * 40_000_000, i)
    frame.pose[1] = 0.1 * i
    return replace(frame, transl=np.array([0.05 * i, 0, 0.02 * i], np.float32))


def shifting(engine: LiveEngine, rng: random.Random) -> Callable[[], Gear]:
    """The gears of an engine, each for a while."""
    chosen = [OWN]

    def gear() -> Gear:
        if rng.random() < 0.15:
            chosen[0] = rng.choice(engine.gears)
        return chosen[0]

    return gear


def assert_the_same(left: list[Picture], again: list[Picture]) -> None:
    assert [(p.epoch, p.index, p.capture_ns) for p in again] == [(p.epoch, p.index, p.capture_ns) for p in left]
    for a, b in zip(left, again, strict=True):
        assert (a.gear, a.skipped) == (b.gear, b.skipped)
        assert a.image.tobytes() == b.image.tobytes() and a.condition.tobytes() == b.condition.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_left_live_leaves_again_byte_for_byte(kind: str, body: Body, tmp_path: Path) -> None:
    rng = random.Random(kind)
    left: list[Picture] = []

    def on_picture(picture: Picture) -> None:
        if rng.random() < 0.05:
            raise RuntimeError("the viewer left")
        left.append(picture)

    engine = an_engine(kind, body, rng)
    groups = [[stage.name for stage in group] for group in grouped(engine)]
    rough = RoughEngine([Rough(s, rng, 0.04 if s.name == "denoise" else 0.004) for s in engine.stages], engine.burst)
    recorder = Recorder(tmp_path)
    recorder.start(engine.described(groups))
    pipeline = Pipeline(rough, on_picture, observer=recorder)
    pipeline.start()

    def enough() -> bool:
        """Whether everything that can go wrong has."""
        lost = {"body: overtaken", "denoise: overtaken", "exit: crashed"} <= pipeline.drops().keys()
        every = len({p.epoch for p in left}) > 2 and {p.gear for p in left} == set(engine.gears)
        return lost and every and len(pipeline.restarts()) == 3 and len(left) > 60

    with structlog.testing.capture_logs():
        resets, pause = lambda i: rng.random() < 0.02, lambda: rng.random() * 0.02
        assert submit_until(enough, pipeline, resets, pause, shifting(engine, rng))
        assert pipeline.stop(20)
    assert recorder.stop()
    assert recorder.state().lost == 0 and not recorder.state().trouble

    log = PoseLog.open(tmp_path)
    again = list(an_engine(kind, body).replay(log))
    assert_the_same(left, again)
    assert recorder.state().written == sum(1 for _ in log.events())

    # What the log says beside the poses matters: with the frames that left alone, other pictures come out.
    fresh = an_engine(kind, body)
    poses = {(e.epoch, e.index): e.frame for e in log.events() if e.frame is not None}
    alone: list[Picture] = []
    for epoch in sorted({p.epoch for p in left}):
        fresh.reset()
        alone += [q for p in left if p.epoch == epoch for q in fresh.feed(poses[epoch, p.index])]
        alone += fresh.flush()
    assert [a.image.tobytes() for a in alone] != [b.image.tobytes() for b in again]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["hop", "face", "exact", "exact gears"])
def test_what_left_before_a_swap_leaves_again(kind: str, seed: int, body: Body, tmp_path: Path) -> None:
    """What is drained and flushed while another engine takes over included, stages that raise then, and resets."""
    rng, left = random.Random(f"{kind} {seed}"), []
    engine = an_engine(kind, body, rng)
    rough = RoughEngine([Rough(s, rng, 0.02 if s.name == "denoise" else 0.004) for s in engine.stages], engine.burst)
    recorder = Recorder(tmp_path)
    recorder.start(engine.described([[stage.name for stage in group] for group in grouped(engine)]))
    relay, gears = Relay(rough, left.append, recorder), shifting(engine, rng)
    relay.start()
    with structlog.testing.capture_logs() as logs:
        assert submit_until(lambda: len(left) > 15, relay, lambda i: False, lambda: rng.random() * 0.02, gears)
        epoch, first = relay.swap(fake_engine())
        if seed == 2:
            time.sleep(0.01)
            relay.reset()
        relay.submit(walking(0))
        assert relay.wait(20) and wait(lambda: recorder.state().swapped) and recorder.stop()
        assert wait(lambda: left[-1].image.shape == (1, 1, 3))  # of the fake one
        assert relay.stop()
    assert [e["folder"] for e in logs if e["event"].startswith("recording ended, another")] == [str(tmp_path)]
    log, state = PoseLog.open(tmp_path), recorder.state()
    assert state == Recording(sum(1 for _ in log.events()), swapped=True)
    *_, last = log.events()
    assert (last.kind, last.group) == (Kind.SWAPPED, 2)
    old = [p for p in left if (p.epoch, p.index) < (epoch, first)]
    assert len(old) > 15
    assert_the_same(old, list(an_engine(kind, body).replay(log)))


def test_frames_held_back_at_a_swap_are_in_the_log(body: Body, tmp_path: Path) -> None:
    """Nothing goes wrong: all frames of the old one leave, more than half of them when it is flushed."""
    engine, left = an_engine("exact", body), []
    recorder = Recorder(tmp_path)
    recorder.start(engine.described([[stage.name for stage in group] for group in grouped(engine)]))
    relay = Relay(engine, left.append, recorder)
    relay.start()
    for i in range(7):
        relay.submit(walking(i))
        assert wait(lambda i=i: len(left) >= (i - 2) // 2 * 2)
        time.sleep(0.05)
    before = len(left)
    relay.swap(fake_engine())
    assert relay.wait(20) and relay.stop() and recorder.stop()
    assert before <= 4 and len(left) == 7 - sum(relay.drops().values()) >= 5
    assert_the_same(left, list(an_engine("exact", body).replay(PoseLog.open(tmp_path))))


def test_a_picture_of_an_engine_that_is_cut_off_did_not_leave(tmp_path: Path) -> None:
    gate, left = threading.Event(), []
    engine = fake_engine()
    engine.stages[1].crashes = lambda work: work.index == 1 and not gate.wait(20)
    recorder = Recorder(tmp_path)
    recorder.start(FIELDS)
    relay = Relay(engine, left.append, recorder)
    relay.start()
    relay.submit(pose_frame(0))
    assert wait(lambda: len(left) == 1)
    relay.submit(pose_frame(1))
    assert wait(lambda: len(engine.stages[1].seen) == 2)
    relay.swap(fake_engine())
    assert not relay.wait(0.01) and not recorder.state().swapped
    gate.set()
    assert wait(lambda: recorder.state().swapped) and wait(lambda: relay.drops() == {"swap: cut off": 1})
    assert relay.stop() and recorder.stop()
    events = [(e.kind, e.group, e.index) for e in PoseLog.open(tmp_path).events()]
    assert [index for kind, group, index in events if kind is Kind.TAKEN and group == 2] == [0]
    assert events[-1] == (Kind.SWAPPED, 2, 0)


def test_a_gear_that_the_log_does_not_list_makes_a_hole(tmp_path: Path) -> None:
    disc = Disc()
    recorder = Recorder(tmp_path, opener=lambda file: disc)
    recorder.start(replace(FIELDS, gears=({}, {"face_every": 2})))
    for i, every in enumerate((1, 2, 3)):
        recorder.took(0, Work(i, 0, pose_frame(i), Gear(face_every=every)))
    assert recorder.stop() and recorder.state().lost == 1
    assert [(e.kind, e.index, e.gear) for e in disc.events()] == [
        (Kind.POSE, 0, 0),
        (Kind.POSE, 1, 1),
        (Kind.HOLE, 1, 0),
    ]


# Discs.


@dataclass
class Disc:
    """An unbuffered file in memory that takes `room` bytes and at most `most` at once, each write held by `gate`."""

    room: int = 1 << 40
    most: int = 1 << 40
    gate: threading.Event | None = None
    data: bytearray = field(default_factory=bytearray)
    closed: bool = False

    def write(self, data: memoryview) -> int:
        if self.gate is not None:
            self.gate.wait(20)
        size = min(len(data), self.most, self.room - len(self.data))
        if not size:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.data += data[:size]
        return size

    def close(self) -> None:
        self.closed = True

    def events(self) -> list[Event]:
        return list(read_events(io.BytesIO(bytes(self.data)), "disc"))


def test_a_file_that_takes_a_few_bytes_at_once_gets_them_all(tmp_path: Path) -> None:
    disc = Disc(most=7)
    recorder = Recorder(tmp_path, opener=lambda file: disc)
    recorder.start(FIELDS)
    for i in range(5):
        recorder.took(0, work(i))
        recorder.took(1, work(i))
    recorder.crashed(1, work(4))
    assert recorder.stop() and disc.closed
    kinds = [(e.kind, e.group, e.index) for e in disc.events()]
    assert kinds == [(k, k - 1, i) for i in range(5) for k in (Kind.POSE, Kind.TAKEN)] + [(Kind.CRASHED, 1, 4)]
    assert recorder.state().written == 11


@pytest.mark.parametrize("room", [0, 5, 8 + 3 * 1104 + 700])
def test_on_a_full_disc_recording_ends_and_the_show_goes_on(room: int, tmp_path: Path) -> None:
    disc, out = Disc(room), []
    recorder = Recorder(tmp_path, opener=lambda file: disc)
    pipeline = Pipeline(fake_engine(), out.append, observer=recorder)
    with structlog.testing.capture_logs() as logs:
        recorder.start(FIELDS)
        pipeline.start()
        for i in range(40):
            pipeline.submit(pose_frame(i))
            assert wait(lambda i=i: len(out) == i + 1)
        assert wait(lambda: bool(recorder.state().trouble))
        for i in range(40, 50):
            pipeline.submit(pose_frame(i))
            assert wait(lambda i=i: len(out) == i + 1)
        assert pipeline.stop() and recorder.stop()
    assert [entry["event"] for entry in logs] == ["recording ended, the show goes on"]
    state = recorder.state()
    assert state.trouble == "No space left on device" and state.lost > 0 and disc.closed
    assert state.written + state.lost == 50 * 3  # a pose, the second group, the exit
    assert [e.index for e in disc.events() if e.kind is Kind.POSE] == list(
        range(sum(e.kind is Kind.POSE for e in disc.events()))
    )
    assert len(disc.events()) >= state.written


def test_a_folder_that_cannot_be_written_ends_recording_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    recorder = Recorder(tmp_path / "file" / "log")
    with structlog.testing.capture_logs() as logs:
        recorder.start(FIELDS)
        assert recorder.stop()
    recorder.took(0, work(0))
    assert recorder.state().trouble and recorder.state().lost == 1 and len(logs) == 1


def test_a_disc_that_is_too_slow_makes_a_hole_and_holds_up_nobody(tmp_path: Path) -> None:
    disc = Disc(gate=threading.Event())
    recorder = Recorder(tmp_path, Backlog(6), lambda file: disc)
    recorder.start(FIELDS)
    assert disc.gate is not None
    for i in range(10):  # nobody waits: the writer has not come past its first bytes
        recorder.took(0, work(i))
    assert recorder.state().lost == 4
    disc.gate.set()
    assert wait(lambda: recorder.state().written >= 6)
    recorder.took(0, work(10))
    assert recorder.stop()
    seen = [(e.kind, e.index) for e in disc.events()]
    assert seen == [*((Kind.POSE, i) for i in range(6)), (Kind.HOLE, 4), (Kind.POSE, 10)]
    (tmp_path / EVENTS_FILE).write_bytes(disc.data)
    with pytest.raises(InputError, match="a hole: 4 records could not be written"):
        list(
            LiveEngine(an_avatar(), networks(), body=load_body(an_avatar())).replay(PoseLog.open(tmp_path), force=True)
        )


def test_a_backlog_never_grows() -> None:
    backlog = Backlog(3)
    for i in range(1000):
        backlog.put(Event(Kind.TAKEN, 1, index=i))
    assert [(e.kind, e.index) for e in backlog.take()] == [*((Kind.TAKEN, i) for i in range(3)), (Kind.HOLE, 997)]
    assert (backlog.lost, backlog.take()) == (997, [])


def test_a_recording_that_never_began_is_stopped_harmlessly(tmp_path: Path) -> None:
    assert Recorder(tmp_path / "log").stop()
    assert not (tmp_path / "log").exists()


def test_a_log_is_never_written_over(tmp_path: Path) -> None:
    check_place(tmp_path / "new" / "log")
    FIELDS.write(tmp_path)
    with pytest.raises(InputError, match="folder: expected one without a pose log, got one with a pose log"):
        check_place(tmp_path)
    with pytest.raises(InputError, match="folder: expected a folder to write to"):
        check_place(tmp_path / "log.toml" / "log")


def test_pictures_are_shown_when_they_were_due() -> None:
    blank = np.zeros((1, 1, 3), np.uint8)
    times = [1000, 1040, 1041, 1160, 1150, 1400]  # milliseconds
    ticks = [tick for tick, _ in in_time((Picture(0, 0, t * 10**6, blank, blank) for t in times), 25.0)]
    assert ticks == [0, 1, 2, 4, 5, 10]
