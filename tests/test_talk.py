"""Speech, mouth and gestures: lips close when they must, sound and mouth agree in time, motion stays human and
repeatable."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clips import read_clip
from engine.errors import InputError
from engine.pose import PoseClip
from engine.rotation import axis_angle_to_matrix, matrix_to_axis_angle
from engine.skeleton import JAW, JOINTS, joint_index
from engine.standin import EXPRESSION_NAMES
from engine.training.talk import kinematics, make, speech, tracks
from engine.training.talk.figure import ARM_DIMS, GAZE_LIMIT, WRIST, Figure
from engine.training.talk.gestures import explore, talk
from engine.training.talk.idle import blinks
from engine.training.talk.places import PLACES, clearance, held
from engine.training.talk.speech import RATE, SILENCE, Phoneme, Speech, speak
from engine.training.talk.strokes import POSTURES, REST, Accent, Phrase, arms
from engine.training.talk.visemes import BILABIALS, CHANNELS, LEAD, VISEMES, VOWELS, mouth
from engine.training.talk.wander import wander

FPS = 25.0
TEXT = "Good evening, and welcome. My mother bought a big pump from Bob.\n\nThank you for watching."
FLITE = pytest.mark.skipif(shutil.which("flite") is None, reason="needs the flite program")
ANCHOR = Path(__file__).parents[1] / "engine" / "avatars" / "anchor"


@pytest.fixture(scope="module")
def spoken() -> Speech:
    if shutil.which("flite") is None:
        pytest.skip("needs the flite program")
    return speak(TEXT)


@pytest.fixture(scope="module")
def moved(spoken: Speech) -> PoseClip:
    return talk(spoken, FPS, seed=1)


@pytest.fixture(scope="module")
def explored() -> PoseClip:
    return explore(3000, FPS, seed=2)


def channel(curves: np.ndarray, name: str) -> np.ndarray:
    return curves[:, CHANNELS.index(name)]


def bundled() -> PoseClip:
    return read_clip(ANCHOR / "clip.npz")


# Speech


def test_the_timeline_covers_the_sound_without_gaps(spoken: Speech) -> None:
    assert spoken.phonemes[0].start == 0.0
    assert abs(spoken.phonemes[-1].end - spoken.seconds) < 0.01
    assert all(abs(a.end - b.start) < 0.012 for a, b in pairwise(spoken.phonemes))
    assert {p.name for p in spoken.phonemes} <= VISEMES.keys()
    assert [s.text.split()[0] for s in spoken.sentences] == ["Good", "My", "Thank"]


def test_phonemes_lie_where_the_sound_is(spoken: Speech) -> None:
    loudness = spoken.envelope(100.0)
    times = np.arange(len(loudness)) / 100.0
    within = np.zeros(len(times), bool)
    silent = np.zeros(len(times), bool)
    for p in spoken.phonemes:
        here = (times > p.start + 0.02) & (times < p.end - 0.02)
        within |= here & (p.name in VOWELS)
        silent |= here & (p.name == SILENCE)
    assert np.median(loudness[within]) > 10 * np.median(loudness[silent])


@FLITE
def test_times_run_on_through_marks_and_numbers() -> None:
    said = speak('He said "Stop." Then (it was 10:30) Mr. Smith had 3.5 dollars; and then? Nothing.')
    assert all(p.start < p.end for p in said.phonemes)
    assert all(abs(a.end - b.start) < 0.012 for a, b in pairwise(said.phonemes))
    assert abs(said.phonemes[-1].end - said.seconds) < 0.01


def test_a_synthesizer_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "flite"
    fake.write_text('#!/bin/sh\n[ "$1" = -lv ] && echo "Voices available: rms" && exit 0\necho broken >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setattr(speech.shutil, "which", lambda _: str(fake))
    with pytest.raises(InputError, match="got broken"):
        speak("Hello.")


def test_loudness_and_headroom(spoken: Speech) -> None:
    assert spoken.samples.dtype == np.float32
    assert 0.3 < np.abs(spoken.samples).max() <= speech.PEAK
    sounding = spoken.samples[np.abs(spoken.samples) > 0.02 * np.abs(spoken.samples).max()]
    assert -21.5 < 20 * np.log10(np.sqrt(np.mean(sounding**2))) < -18.5


def test_a_missing_synthesizer_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech.shutil, "which", lambda _: None)
    with pytest.raises(InputError) as caught:
        speak("Hello.")
    assert "flite" in str(caught.value) and "apt-get install flite" in str(caught.value)
    assert "\n" not in str(caught.value)


@FLITE
@pytest.mark.parametrize("text", ["", " \n\n ", "... !"])
def test_a_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="at least one sentence"):
        speak(text)


@FLITE
def test_an_unknown_voice_is_refused() -> None:
    with pytest.raises(InputError, match="nobody"):
        speak("Hello.", voice="nobody")


# Mouth


@st.composite
def utterances(draw: st.DrawFn) -> list[Phoneme]:
    names = draw(st.lists(st.sampled_from(sorted(VISEMES)), min_size=1, max_size=30))
    lengths = draw(st.lists(st.floats(0.03, 0.4), min_size=len(names), max_size=len(names)))
    phonemes, now = [], 0.5
    for name, length in zip(names, lengths, strict=True):
        phonemes.append(Phoneme(name, now, now + length))
        now += length
    return [Phoneme(SILENCE, 0.0, 0.5), *phonemes, Phoneme(SILENCE, now, now + 0.5)]


@given(utterances(), st.floats(0.0, 0.04))
@settings(max_examples=40)
def test_bilabials_close_in_some_picture_whatever_stands_beside_them(said: list[Phoneme], shift: float) -> None:
    times = np.arange(0.0, said[-1].end, 1 / FPS) + shift
    curves = mouth(said, times, np.full(len(times), 1.1))
    for before, p, after in zip(said, said[1:], said[2:], strict=False):
        crowded = any(VISEMES[q.name].closes and q.name not in BILABIALS for q in (before, after))  # f, v bite instead
        if p.name in BILABIALS and not crowded:
            here = (times > p.start - LEAD - 0.03) & (times < p.end - LEAD + 0.03)
            closed = (channel(curves, "jaw")[here] < 0.02) & (channel(curves, "lips_press")[here] > 1.0)
            assert closed.any(), f"{p} stays open"


@given(utterances())
@settings(max_examples=40)
def test_the_mouth_stays_within_its_targets_and_moves_smoothly(said: list[Phoneme]) -> None:
    times = np.arange(0.0, said[-1].end, 0.005)
    curves = mouth(said, times)
    assert curves.min() >= 0.0
    assert channel(curves, "jaw").max() <= max(v.jaw for v in VISEMES.values())
    assert np.abs(np.diff(channel(curves, "jaw"))).max() / 0.005 < 9.0  # rad/s
    assert curves[0, 0] == pytest.approx(0.0, abs=1e-3)


def test_an_open_vowel_opens_wide_and_a_round_one_rounds() -> None:
    def middle(name: str) -> dict[str, float]:
        said = [Phoneme(SILENCE, 0.0, 0.5), Phoneme(name, 0.5, 0.7), Phoneme(SILENCE, 0.7, 1.2)]
        return dict(zip(CHANNELS, mouth(said, np.array([0.6 - LEAD]))[0], strict=True))

    assert middle("aa")["jaw"] > 0.15 > middle("iy")["jaw"] > middle("s")["jaw"] > middle("m")["jaw"]
    assert middle("uw")["lips_kiss"] > 1.5 and middle("iy")["lips_kiss"] < 0.3
    assert middle("iy")["lips_wide"] > 1.0
    assert middle("f")["lip_bite"] > 1.5


def test_the_jaw_opens_with_the_vowels(spoken: Speech, moved: PoseClip) -> None:
    times = np.arange(len(moved)) / FPS + LEAD
    jaw = moved.poses[:, JAW][:, 0]
    in_vowel = np.array([any(p.start <= t < p.end for p in spoken.phonemes if p.name in VOWELS) for t in times])
    in_pause = np.array(
        [any(p.start + 0.1 <= t < p.end - 0.1 for p in spoken.phonemes if p.name == SILENCE) for t in times]
    )
    assert jaw[in_vowel].mean() > 0.09
    assert jaw[in_pause].max() < 0.03
    assert np.corrcoef(in_vowel, jaw)[0, 1] > 0.4


def test_mouth_and_sound_agree_within_two_frames(spoken: Speech, moved: PoseClip) -> None:
    jaw = moved.poses[:, JAW][:, 0]
    loudness = spoken.envelope(FPS)[: len(jaw)]
    jaw, loudness = (jaw - jaw.mean()) / jaw.std(), (loudness - loudness.mean()) / loudness.std()
    lags = range(-12, 13)
    fits = [float(np.mean(np.roll(jaw, lag) * loudness)) for lag in lags]
    best = lags[int(np.argmax(fits))]
    assert max(fits) > 0.5
    assert 0 <= best <= 2, "the mouth shall lead the sound by about a frame"


# Motion


@pytest.mark.parametrize("which", ["moved", "explored"])
def test_joints_stay_human(which: str, request: pytest.FixtureRequest) -> None:
    clip: PoseClip = request.getfixturevalue(which)
    pose = clip.poses.reshape(len(clip), JOINTS, 3)
    angle = np.linalg.norm(pose, axis=-1)
    assert angle.max() < 2.8
    for side, sign in (("left", -1.0), ("right", 1.0)):
        elbow = pose[:, joint_index(f"{side}_elbow")]
        assert (sign * elbow[:, 1] > 0.0).all(), "elbows bend one way only"
        assert angle[:, joint_index(f"{side}_wrist")].max() < 1.6
        assert angle[:, joint_index(f"{side}_collar")].max() < 0.75
        assert np.abs(pose[:, joint_index(f"{side}_eye")]).max() <= GAZE_LIMIT
        curls = pose[:, joint_index(f"{side}_index1") : joint_index(f"{side}_index1") + 12, 2] * -sign
        assert curls.max() < 0.25 and curls.min() > -1.9, "fingers curl to the palm"
    assert pose[:, joint_index("jaw"), 0].min() >= 0.0 and pose[:, joint_index("jaw"), 0].max() < 0.37
    head = pose[:, joint_index("neck")] + pose[:, joint_index("head")]
    assert (np.abs(head).max(0) < (0.63, 1.06, 0.63)).all()
    assert clip.expressions.min() >= 0.0 and clip.expressions.max() <= 3.3


@pytest.mark.parametrize(("which", "arm", "head"), [("moved", 8.0, 2.0), ("explored", 14.0, 3.0)])
def test_angular_speed_is_bounded(which: str, arm: float, head: float, request: pytest.FixtureRequest) -> None:
    clip: PoseClip = request.getfixturevalue(which)
    turn = np.linalg.norm(np.diff(clip.poses.reshape(len(clip), JOINTS, 3), axis=0), axis=-1) * clip.fps  # rad/s
    eyes = [joint_index("left_eye"), joint_index("right_eye")]
    rest = [j for j in range(JOINTS) if j not in eyes]
    assert turn[:, rest].max() < arm
    assert turn[:, [joint_index("neck"), joint_index("head"), joint_index("spine3")]].max() < head
    assert np.abs(np.diff(clip.transl, axis=0)).max() * clip.fps < 0.2  # m/s


@pytest.mark.parametrize("which", ["moved", "explored"])
def test_wrists_stay_out_of_the_trunk(which: str, request: pytest.FixtureRequest) -> None:
    clip: PoseClip = request.getfixturevalue(which)
    pose = clip.poses.reshape(len(clip), JOINTS, 3).astype(np.float64)
    for side in ("left", "right"):
        arm = np.stack([pose[:, joint_index(f"{side}_{n}")] for n in ("collar", "shoulder", "elbow", "wrist")], 1)
        points = kinematics.arm_points(arm if side == "left" else kinematics.mirror(arm))
        for point in (points[:, 3], points[:, 4]):
            wide = point[:, 0] / (kinematics.TORSO_HALF_WIDTH - 0.05)
            deep = (point[:, 2] - kinematics.TORSO_CENTRE_Z) / (kinematics.TORSO_HALF_DEPTH - 0.05)
            inside = (np.hypot(wide, deep) < 1.0) & (point[:, 1] < 0.1)
            assert not inside.any()


def test_a_resting_anchor_holds_the_hands_before_the_body() -> None:
    solved = kinematics.solve_arm(REST[None, WRIST], *(REST[None, i] for i in (3, 4, 5, 6)))
    points = kinematics.arm_points(solved)[0]
    assert points[3] == pytest.approx(REST[WRIST], abs=0.005)
    assert points[4][2] > points[3][2] > points[2][2]  # knuckles before wrist before elbow
    assert points[2][1] < points[1][1] - 0.15  # the elbow hangs


@given(
    st.tuples(st.floats(-0.1, 0.6), st.floats(-0.45, 0.5), st.floats(0.0, 0.5)),
    st.floats(-0.2, 1.0),
    st.floats(-1.2, 1.2),
)
def test_inverse_kinematics_reaches_what_can_be_reached(
    wrist: tuple[float, float, float], swivel: float, pronation: float
) -> None:
    goal = np.array([wrist])
    one = np.ones(1)
    points = kinematics.arm_points(kinematics.solve_arm(goal, swivel * one, pronation * one, 0 * one, 0 * one))[0]
    reach = np.linalg.norm(goal[0] - points[1])
    if 0.25 < reach < 0.42:
        assert points[3] == pytest.approx(goal[0], abs=0.01)
    else:  # too far or too near: on the way there
        along = (points[3] - points[1]) @ (goal[0] - points[1])
        assert along > 0.99 * np.linalg.norm(points[3] - points[1]) * reach


def test_strokes_land_on_the_accents() -> None:
    times = np.arange(0.0, 6.0, 0.02)
    phrase = Phrase(2.0, 4.0, "First of all", True, (Accent(2.4, 1.2),))
    left, right = arms([phrase], times, np.random.default_rng(0))
    at = int(np.searchsorted(times, 2.43))
    assert np.linalg.norm(right[at, WRIST] - POSTURES["count"][WRIST]) < 0.08
    assert right[at, 7] < 0.2 and right[at, 8] > 0.7  # one finger up
    assert np.linalg.norm(left[:, WRIST] - left[0, WRIST], axis=1).max() < 0.02
    assert np.linalg.norm(right[-1, WRIST] - right[0, WRIST]) < 0.05  # home again


def test_people_blink_every_few_seconds(moved: PoseClip) -> None:
    times = np.arange(0.0, 120.0, 1 / FPS)
    lids = blinks(times, np.random.default_rng(3), phrase_ends=(10.0, 20.0))
    shut = np.flatnonzero((lids[1:] > 0.95) & (lids[:-1] <= 0.95)) / FPS
    assert lids.max() == 1.0
    assert np.diff(shut).min() > 1.0 and np.diff(shut).max() < 5.1
    assert np.convolve(lids > 0.05, np.ones(6), "valid").max() < 6, "a blink lasts less than six frames"
    left, right = (moved.expressions[:, EXPRESSION_NAMES.index(f"blink_{side}")] for side in ("left", "right"))
    assert left.max() > 2.9 and np.array_equal(left, right)


def test_exploring_covers_what_live_motion_capture_may_ask_for(explored: PoseClip) -> None:
    pose = explored.poses.reshape(len(explored), JOINTS, 3)
    head = pose[:, joint_index("neck")] + pose[:, joint_index("head")]
    assert head[:, 1].min() < -0.4 and head[:, 1].max() > 0.4
    assert pose[:, joint_index("jaw"), 0].max() > 0.3
    used = explored.expressions[:, : len(EXPRESSION_NAMES)].max(0)
    assert (used > 1.5).all(), f"never seen: {[EXPRESSION_NAMES[i] for i in np.flatnonzero(used <= 1.5)]}"
    assert np.ptp(pose[:, joint_index("left_shoulder")], axis=0).min() > 1.0


def posed(**joints: tuple[float, float, float]) -> np.ndarray:
    """(JOINTS, 3) axis-angle from degrees by joint name; `both_x` is the left side's and mirrored to the right."""
    pose = np.zeros((JOINTS, 3))
    for name, degrees in joints.items():
        if name.startswith("both_"):
            pose[joint_index(name.replace("both", "left"))] = np.radians(degrees)
            pose[joint_index(name.replace("both", "right"))] = kinematics.mirror(np.radians(degrees))
        else:
            pose[joint_index(name)] = np.radians(degrees)
    return pose


ARMS = tuple(f"{side}_{name}" for side in ("left", "right") for name in ("shoulder", "elbow"))
ASKED = {  # pose, the joints that count, degrees to the nearest sample at most
    "hanging arms": (posed(both_shoulder=(0.0, 0.0, -75.0), both_elbow=(0.0, -15.0, 0.0)), ARMS, 25.0),
    "raised arms": (posed(both_shoulder=(-80.0, -20.0, -20.0), both_elbow=(0.0, -95.0, 0.0)), ARMS, 30.0),
    "head to the left": (posed(neck=(0.0, 25.0, 0.0), head=(0.0, 28.0, 0.0)), ("neck", "head"), 9.0),
    "head to the right, tilted": (posed(neck=(0.0, -18.0, 8.0), head=(0.0, -22.0, 10.0)), ("neck", "head"), 8.0),
    "shrug": (posed(both_collar=(0.0, 0.0, 16.0)), ("left_collar", "right_collar"), 7.0),
    "lean": (posed(pelvis=(15.0, 0.0, 0.0), spine1=(-3.0, 5.0, 0.0)), ("pelvis", "spine1"), 7.0),
}


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """(2400, JOINTS, 3, 3) rotations, as a training set takes them."""
    return axis_angle_to_matrix(explore(2400, 5.0, seed=11).poses.reshape(-1, JOINTS, 3))


@pytest.mark.parametrize("what", ASKED)
def test_a_training_set_has_a_sample_near(what: str, samples: np.ndarray) -> None:
    pose, names, limit = ASKED[what]
    wanted = axis_angle_to_matrix(pose)
    joints = [joint_index(name) for name in names]
    cosine = (np.einsum("njkl,jkl->nj", samples[:, joints], wanted[joints]) - 1.0) / 2.0
    apart = np.degrees(np.sqrt((np.arccos(np.clip(cosine, -1.0, 1.0)) ** 2).mean(1)))
    assert apart.min() < limit


WRISTS = {  # left and right in the chest frame, metres, and how near both are in some sample, root mean square
    "hanging": ((0.27, -0.31, 0.02), (-0.27, -0.31, 0.02), 0.05),
    "crossed": ((-0.11, -0.02, 0.27), (0.07, -0.10, 0.22), 0.05),
    "on the hips": ((0.26, -0.19, 0.04), (-0.26, -0.19, 0.04), 0.05),
    "one above the other": ((0.03, 0.02, 0.28), (-0.03, -0.12, 0.26), 0.05),
    "before chin and belly": ((0.08, 0.13, 0.29), (-0.14, -0.17, 0.25), 0.10),
}


@pytest.mark.parametrize("what", WRISTS)
def test_a_training_set_has_hands_near(what: str, samples: np.ndarray) -> None:
    left, right, limit = WRISTS[what]
    assert np.sqrt(0.5 * ((wrists(samples) - [left, right]) ** 2).sum((1, 2))).min() < limit


def wrists(rotations: np.ndarray) -> np.ndarray:
    """Where (T, JOINTS, 3, 3) put left and right wrist, (T, 2, 3) in the chest frame."""
    pose = matrix_to_axis_angle(rotations)
    out = []
    for side in ("left", "right"):
        arm = np.stack([pose[:, joint_index(f"{side}_{n}")] for n in ("collar", "shoulder", "elbow", "wrist")], 1)
        if side == "left":
            out.append(kinematics.arm_points(arm)[:, 3])
        else:
            out.append(kinematics.mirror_points(kinematics.arm_points(kinematics.mirror(arm))[:, 3]))
    return np.stack(out, 1)


def test_hands_are_held_at_their_places_outside_the_body() -> None:
    arms_there = held([p for p in PLACES.values() for _ in range(20)], np.random.default_rng(0))
    assert np.median(clearance(arms_there)) == 0.0 and clearance(arms_there).max() < 0.12


def test_wandering_is_smooth_where_it_is_sampled_finely() -> None:
    figure = wander(np.arange(1000) / 200.0, 200.0, np.random.default_rng(5))
    acceleration = np.diff(figure.left[:, WRIST], 2, axis=0) * 200.0**2
    assert np.abs(acceleration).max() < 60.0  # m/s^2, where a jump in speed of 0.5 m/s would give 100


@given(st.integers(0, 2**31))
@settings(max_examples=5)
def test_exploring_repeats_exactly_and_differs_by_seed(seed: int) -> None:
    once, again, other = explore(60, FPS, seed), explore(60, FPS, seed), explore(60, FPS, seed + 7)
    assert np.array_equal(once.poses, again.poses) and np.array_equal(once.expressions, again.expressions)
    assert not np.array_equal(once.poses, other.poses)


def test_mixing_figures_goes_from_one_to_the_other() -> None:
    times = np.arange(50) / FPS
    a, b = (wander(times, FPS, np.random.default_rng(s)) for s in (1, 2))
    mixed = a.mixed(b, np.linspace(0.0, 1.0, 50))
    assert isinstance(mixed, Figure) and mixed.left.shape == (50, ARM_DIMS)
    assert np.array_equal(mixed.left[0], a.left[0]) and np.allclose(mixed.left[-1], b.left[-1])


def test_minimum_jerk_rests_at_every_key() -> None:
    times = np.linspace(0.0, 2.0, 2001)
    path = tracks.through(times, [0.0, 1.0, 2.0], [np.zeros(1), np.ones(1), np.full(1, -1.0)])[:, 0]
    speed = np.gradient(path, times)
    assert path[1000] == pytest.approx(1.0) and path[-1] == pytest.approx(-1.0)
    assert np.abs(speed[[0, 1000, 2000]]).max() < 1e-2
    assert speed.max() == pytest.approx(1.875, rel=1e-3)


# The clip


@FLITE
def test_make_clip_writes_both_files_and_the_same_motion_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make.make_clip("My name is Bob.", tmp_path / name, seed=4)
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["clip.npz", "clip.opus"]
    for file_name in ("clip.npz", "clip.opus"):
        assert (tmp_path / "a" / file_name).read_bytes() == (tmp_path / "b" / file_name).read_bytes()
    with np.load(tmp_path / "a" / "clip.npz") as stored:
        assert stored["poses"].dtype == np.float32 and float(stored["mocap_frame_rate"]) == make.FPS
        frames = len(stored["poses"])
    with av.open(str(tmp_path / "a" / "clip.opus")) as file:
        stream = file.streams.audio[0]
        samples = sum(frame.samples for frame in file.decode(stream))
    assert stream.codec_context.name in ("opus", "libopus") and stream.rate == RATE
    assert abs(samples / RATE - frames / make.FPS) < 0.1


def test_a_script_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make.main([str(tmp_path), str(tmp_path / "none.txt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_bundled_clip_is_small_and_a_minute_long() -> None:
    assert (ANCHOR / "clip.npz").stat().st_size <= 700_000
    assert (ANCHOR / "clip.opus").stat().st_size <= 300_000
    clip = bundled()
    assert clip.fps == make.FPS
    assert 45.0 <= clip.seconds <= 62.0
    assert clip.poses[:, JAW][:, 0].max() > 0.15


def test_the_bundled_clips_sound_fits_its_mouth() -> None:
    clip = bundled()
    with av.open(str(ANCHOR / "clip.opus")) as file:
        parts = [frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)]
    sound = Speech(np.concatenate(parts).astype(np.float32), (), ())
    loudness = sound.envelope(clip.fps)[: len(clip)]
    jaw = clip.poses[: len(loudness), JAW][:, 0]
    fits = [float(np.corrcoef(np.roll(jaw, lag), loudness)[0, 1]) for lag in range(-12, 13)]
    assert 0 <= int(np.argmax(fits)) - 12 <= 2
