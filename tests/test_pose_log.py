"""The pose log: bytes and back, cut off anywhere, damaged anywhere; and what a replay makes of events."""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeStage, pose_frame
from hypothesis import given
from hypothesis import strategies as st
from test_live import an_avatar, networks

from engine.body import Body
from engine.errors import InputError
from engine.gear import OWN, Gear
from engine.live import LiveEngine, load_body
from engine.picture import Picture
from engine.pose_log import (
    BODY_BYTES,
    EVENTS_FILE,
    HEAD_BYTES,
    MAGIC,
    Event,
    Kind,
    LogFields,
    PoseLog,
    encode,
    read_events,
)
from engine.replay import replay
from engine.work import Work

DOCS = Path(__file__).resolve().parents[1] / "docs" / "pose_log.md"
GEARS = [OWN, Gear(face_every=2)]
GROUPS = (("body", "condition"), ("denoise", "decode"))
FIELDS = LogFields("test", "", 0, 2, "causal", 1, 0, 0, 1, 0, 25.0, GROUPS)


@st.composite
def events(draw: st.DrawFn) -> Event:
    kind = draw(st.sampled_from(Kind))
    numbers = draw(st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)))
    frame = None
    if kind is Kind.POSE:
        frame = pose_frame(draw(st.integers(-(2**63), 2**63 - 1)), draw(st.integers(0, 2**32)))
    return Event(kind, *numbers, draw(st.integers(0, 2**16 - 1)), frame)


def read(data: bytes) -> list[Event]:
    return list(read_events(io.BytesIO(data), "poses.bin"))


def written(some: list[Event]) -> bytes:
    return MAGIC + b"".join(map(encode, some))


@given(st.lists(events(), max_size=6))
def test_what_is_written_is_read(some: list[Event]) -> None:
    back = read(written(some))
    assert len(back) == len(some)
    for a, b in zip(some, back, strict=True):
        assert (a.kind, a.group, a.epoch, a.index, a.gear) == (b.kind, b.group, b.epoch, b.index, b.gear)
        if a.frame is None or b.frame is None:
            assert a.frame is b.frame
            continue
        assert a.frame.time_ns == b.frame.time_ns
        for name in ("pose", "expression", "transl"):
            assert getattr(a.frame, name).tobytes() == getattr(b.frame, name).tobytes()


def test_a_log_cut_off_anywhere_is_read_up_to_its_last_whole_record() -> None:
    some = [
        Event(Kind.POSE, frame=pose_frame(7)),
        Event(Kind.TAKEN, 1),
        Event(Kind.CRASHED, 1),
        Event(Kind.POSE, 0, 1, 3, frame=pose_frame(8, 1)),
        Event(Kind.HOLE, index=5),
    ]
    data, ends = written(some), [len(written(some[:n])) for n in range(len(some) + 1)]
    assert ends[1] - ends[0] == HEAD_BYTES + BODY_BYTES == 1104
    for length in range(len(data) + 1):
        back = read(data[:length])
        assert len(back) == max(sum(end <= length for end in ends) - 1, 0)
        assert [encode(event) for event in back] == [encode(event) for event in some[: len(back)]]


@given(st.lists(events(), min_size=1, max_size=3), st.data())
def test_a_damaged_byte_is_one_line(some: list[Event], data: st.DataObject) -> None:
    whole = bytearray(written(some))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    got: list[Event] = []
    with pytest.raises(InputError, match=r"poses\.bin: (magic|record at byte \d+): expected .* got") as caught:
        for event in read_events(io.BytesIO(bytes(whole)), "poses.bin"):
            got.append(event)
    assert "\n" not in str(caught.value)
    assert [encode(event) for event in got] == [
        encode(event) for event in some[: len(got)]
    ]  # what came before is whole


@given(st.binary(max_size=4000), st.booleans(), st.booleans())
def test_any_bytes_are_read_or_refused_in_one_line(noise: bytes, headed: bool, summed: bool) -> None:
    """Also such that have a right checksum: the stages are then told of things that cannot have happened."""
    if summed:
        size = HEAD_BYTES - 4
        heads = [noise[i : i + size] for i in range(0, len(noise) - size, size)]
        noise = b"".join(head + zlib.crc32(head).to_bytes(4, "little") for head in heads)
    file = io.BytesIO(MAGIC + noise if headed else noise)
    stages = [FakeStage("body"), FakeStage("denoise")]
    try:
        list(replay(read_events(file, "poses.bin"), [stages[:1], stages[1:]], [OWN], 1, int, "poses.bin"))
    except InputError as error:
        assert "\n" not in str(error)


def test_the_document_says_the_bytes() -> None:
    text = DOCS.read_text("utf-8")
    (example,) = re.findall(r"```hex\n(.*?)```", text, re.S)
    assert bytes.fromhex(example) == encode(Event(Kind.TAKEN, 1, 2, 1234))
    for number in (HEAD_BYTES, f"{BODY_BYTES:,}", f"{HEAD_BYTES + BODY_BYTES:,}", "4C 56 41 4C 4F 47 01 00"):
        assert str(number) in text
    assert bytes.fromhex("4C 56 41 4C 4F 47 01 00") == MAGIC
    arrays = np.concatenate([np.arange(n, dtype=np.float32) for n in (165, 100, 3)])
    frame = replace(pose_frame(-2), pose=arrays[:165], expression=arrays[165:265], transl=arrays[265:])
    record = encode(Event(Kind.POSE, frame=frame))
    assert record[20:28] == (-2).to_bytes(8, "little", signed=True)
    assert np.array_equal(np.frombuffer(record, "<f4", 268, 28), arrays)


def test_a_folder_that_holds_no_log_or_another_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"log\.toml: file: expected a TOML file, got no such file"):
        PoseLog.open(tmp_path)
    FIELDS.write(tmp_path)
    assert PoseLog.open(tmp_path).fields == FIELDS
    with pytest.raises(InputError, match=r"poses\.bin: file: expected a readable file"):
        list(PoseLog.open(tmp_path).events())
    geared = replace(FIELDS, gears=({}, {"steps": 1}, {"context": 0, "face_every": 2}))
    geared.write(tmp_path)
    assert "gears = [{  }, { steps = 1 }, { context = 0, face_every = 2 }]\n" in (tmp_path / "log.toml").read_text()
    assert PoseLog.open(tmp_path).fields == geared
    assert geared.prepared("") == (OWN, Gear(steps=1), Gear(context=0, face_every=2))
    replace(FIELDS, version=2).write(tmp_path)
    with pytest.raises(InputError, match=r"log\.toml: version: expected 1, got 2"):
        PoseLog.open(tmp_path)


@pytest.mark.parametrize("gears", [(), ({"steps": 1},), ({}, {"steps": 0}), ({}, {"colour": 3})])
def test_a_list_of_gears_that_are_none_is_one_line(gears: tuple[dict[str, int], ...]) -> None:
    with pytest.raises(InputError, match=r"log\.toml: gears: expected .* got") as caught:
        replace(FIELDS, gears=gears).prepared("log.toml")
    assert "\n" not in str(caught.value)


# What a replay makes of events.


class Counting(FakeStage):
    """Says which frames it has seen since it was reset: the state that replays must have right."""

    def __call__(self, work: Work) -> list[Work]:
        state = work.arrays.setdefault("state", np.zeros(0, int))
        self.run = [*getattr(self, "run", []), work.index]
        work.arrays["state"] = np.concatenate([state, [-1], self.run])
        return super().__call__(work)

    def reset(self) -> int:
        self.run: list[int] = []
        return super().reset()


def replayed(some: list[Event], burst: int = 1) -> list[Picture]:
    stages = [Counting("body"), Counting("denoise", burst=burst)]
    return list(replay(some, [stages[:1], stages[1:]], GEARS, burst, lambda: 0, "poses.bin"))


def pose(index: int, epoch: int = 0, gear: int = 0) -> Event:
    return Event(Kind.POSE, 0, epoch, index, gear, pose_frame(index))


def taken(group: int, index: int, epoch: int = 0) -> Event:
    return Event(Kind.TAKEN, group, epoch, index)


def test_only_what_left_comes_out_and_what_was_lost_goes_as_far_as_it_came() -> None:
    some = [pose(0), pose(1), taken(1, 1), pose(2), pose(3), taken(1, 3), taken(2, 3)]
    assert [p.index for p in replayed(some)] == [3]
    assert [p.index for p in replayed([pose(0), pose(1), taken(1, 0), taken(2, 0), taken(1, 1), taken(2, 1)])] == [0, 1]


def test_a_frame_that_crashed_a_group_is_not_painted_again() -> None:
    some = [pose(0), taken(1, 0), Event(Kind.CRASHED, 1), pose(1), taken(1, 1), taken(2, 1)]
    assert [p.index for p in replayed(some)] == [1]
    with pytest.raises(InputError, match="record 6: expected a frame that came there, got frame 0 of epoch 0"):
        replayed([*some, taken(2, 0)])


def test_frames_held_back_leave_together_or_die_with_their_epoch() -> None:
    some = [pose(0), taken(1, 0), pose(1), taken(1, 1), taken(2, 0), taken(2, 1), pose(2), taken(1, 2)]
    some += [pose(0, 1), taken(1, 0, 1), pose(1, 1), taken(1, 1, 1), taken(2, 0, 1), taken(2, 1, 1)]
    assert [(p.epoch, p.index) for p in replayed(some, burst=2)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def swapped(group: int, epoch: int = 0) -> Event:
    return Event(Kind.SWAPPED, group, epoch)


def test_after_a_swap_what_was_held_back_leaves_and_the_log_ends() -> None:
    some = [pose(0), taken(1, 0), pose(1), swapped(0), taken(1, 1), swapped(1), taken(2, 0), taken(2, 1), swapped(2)]
    assert [p.index for p in replayed([*some, pose(2)], burst=3)] == [0, 1]
    some[6:] = [Event(Kind.CRASHED, 1, 0, 0), taken(2, 1), swapped(2)]
    assert [p.index for p in replayed(some, burst=3)] == [1]
    some[5:] = [swapped(1, epoch=1), taken(2, 0)]  # all died with their epoch
    with pytest.raises(InputError, match="record 6: expected a frame that came there"):
        replayed(some, burst=3)


def test_a_frame_is_painted_in_the_gear_of_its_number() -> None:
    some = [e for i, gear in enumerate((0, 1, 0)) for e in (pose(i, gear=gear), taken(1, i), taken(2, i))]
    assert [p.gear for p in replayed(some)] == [OWN, GEARS[1], OWN]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event(Kind.HOLE, index=3), "record 1: expected a log without holes, got a hole: 3 records"),
        (Event(Kind.TAKEN, 3), "record 1: expected group 1 to 2, got 3"),
        (Event(Kind.CRASHED, 2), "record 1: expected group 0 to 1, got 2"),
        (Event(Kind.TAKEN, 1, gear=2), "record 1: expected a gear below 1, got 2"),
        (pose(1, gear=2), "record 1: expected a gear below 2, got 2"),
        (Event(Kind.SWAPPED, 3), "record 1: expected group 0 to 2, got 3"),
        (Event(Kind.TAKEN, 1, 1, 0), "record 1: expected a frame that came there, got frame 0 of epoch 1"),
    ],
)
def test_what_cannot_be_replayed_stops_there(event: Event, message: str) -> None:
    with pytest.raises(InputError, match=f"poses.bin: {message}"):
        replayed([pose(0), event])


def test_no_frame_is_taken_after_a_swap() -> None:
    with pytest.raises(InputError, match="record 2: expected no more frames after a swap, got frame 1 of epoch 0"):
        replayed([pose(0), swapped(0), pose(1)])


def test_frames_that_no_door_can_hold_do_not_pile_up() -> None:
    with pytest.raises(InputError, match="frame 0 of epoch 0"):
        replayed([*map(pose, range(20)), taken(1, 0)])


# The engine.


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body(an_avatar())


def a_log(folder: Path, fields: LogFields, frames: int = 4) -> PoseLog:
    folder.mkdir()
    fields.write(folder)
    some = [
        e for i in range(frames) for e in (Event(Kind.POSE, 0, 0, i, 0, pose_frame(i, i)), taken(1, i), taken(2, i))
    ]
    (folder / EVENTS_FILE).write_bytes(written(some))
    return PoseLog.open(folder)


def test_an_engine_replays_what_it_painted(body: Body, tmp_path: Path) -> None:
    engine = LiveEngine(an_avatar(), networks(2), context=1, body=body)
    painted = [p for i in range(4) for p in engine.feed(pose_frame(i, i))]
    log = a_log(tmp_path / "log", engine.described(GROUPS))
    for _ in range(2):  # whatever it did before
        again = list(engine.replay(log))
        assert [(p.epoch, p.index, p.capture_ns) for p in again] == [(0, i, i) for i in range(4)]
        assert all(a.image.tobytes() == b.image.tobytes() for a, b in zip(painted, again, strict=True))


def test_a_log_of_another_engine_is_refused_unless_forced(body: Body, tmp_path: Path) -> None:
    engine = LiveEngine(an_avatar(), networks(), body=body)
    fields = engine.described(GROUPS)
    others = {
        "avatar": "ada",
        "fingerprint": "0",
        "seed": 7,
        "steps": 3,
        "mode": "bank",
        "window": 9,
        "overlap": 1,
        "context": 4,
        "hop": 2,
    }
    for name, other in others.items():
        log = a_log(tmp_path / name, replace(fields, **{name: other}))
        with pytest.raises(InputError, match=rf"log\.toml: {name}: expected {getattr(fields, name)}, .* got {other}"):
            engine.replay(log)
        assert len(list(engine.replay(log, force=True))) == 4
    log = a_log(tmp_path / "groups", replace(fields, groups=(("body", "condition"), ("denoise",))))
    with pytest.raises(InputError, match=r"log\.toml: groups: expected the stages body, condition, denoise, decode"):
        engine.replay(log, force=True)
    for forced in (False, True):
        log = a_log(tmp_path / f"delay{forced}", replace(fields, delay=3))
        with pytest.raises(InputError, match=r"log\.toml: delay: expected 0, .* got 3"):
            engine.replay(log, force=forced)
        log = a_log(tmp_path / f"gears{forced}", replace(fields, gears=({}, {"steps": 1})))
        with pytest.raises(InputError, match=r"log\.toml: gears: expected those of this engine: own, got steps 1"):
            engine.replay(log, force=forced)


def test_an_engine_that_is_never_live_has_no_log(body: Body) -> None:
    engine = LiveEngine(an_avatar(), networks(2), body=body, mode="offline", window=2, overlap=0)
    with pytest.raises(InputError, match="mode: expected exact, causal or bank: live, got offline"):
        engine.described(GROUPS)


def test_the_fingerprint_is_of_what_the_pictures_depend_on(tmp_path: Path) -> None:
    avatar = replace(an_avatar(appearance={"body": "body.npy"}), folder=tmp_path)
    avatar.write(tmp_path)
    prints = [avatar.fingerprint()]
    (tmp_path / "clip.npz").write_bytes(b"1")
    assert avatar.fingerprint() == prints[0]
    for name in ("graphs.json", "body.npy", "avatar.toml"):
        (tmp_path / name).write_bytes(b"1")
        prints.append(avatar.fingerprint())
    assert len(set(prints)) == 4
