"""Whatever the performer's feet do, the anchor stays in the picture and faces the camera, without a jump."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engine import rotation
from engine.avatar import RootFields
from engine.pose import PoseFrame
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from engine.staging import UP, Staging

FPS = 25.0
FIELDS = RootFields()


def walk(seconds: float, speed: float = 1.2, turn_rate: float = 0.8, start_heading: float = 2.0) -> list[PoseFrame]:
    """A walk in circles: bouncing, swaying, leaning forwards, far from the origin."""
    frames, place = [], np.array([3.0, 1.3, -7.0])
    for i in range(int(seconds * FPS)):
        t = i / FPS
        heading = start_heading + turn_rate * t
        place = place + speed / FPS * np.array([np.sin(heading), 0.0, np.cos(heading)])
        bounce = np.array([0.0, 0.03 * np.sin(2 * np.pi * 2 * t), 0.0])
        sway = 0.1 * np.sin(2 * np.pi * t)
        root = rotation.multiply(rotation.about(UP, heading + sway), rotation.about([1.0, 0.0, 0.0], 0.15))
        frames.append(frame(round(t * 1e9), rotation.quaternion_to_axis_angle(root), place + bounce))
    return frames


def frame(time_ns: int, root: np.ndarray, transl: np.ndarray) -> PoseFrame:
    pose = np.random.default_rng(0).normal(0, 0.2, POSE_DIMS).astype(np.float32)
    pose[:3] = root
    return PoseFrame(time_ns, pose, np.ones(EXPRESSION_DIMS, np.float32), np.asarray(transl, np.float32))


def facing(f: PoseFrame) -> np.ndarray:
    return rotation.rotate(rotation.axis_angle_to_quaternion(f.pose[:3]), [0.0, 0.0, 1.0])


def moves(frames: list[PoseFrame]) -> tuple[float, float]:
    """The largest step from frame to frame: metres, and radians of facing."""
    metres = max(np.linalg.norm(b.transl - a.transl) for a, b in pairwise(frames))
    turns = max(np.linalg.norm(facing(b) - facing(a)) for a, b in pairwise(frames))
    return float(metres), float(turns)


@pytest.mark.parametrize("turn_rate", [0.0, 0.8, -2.0, 7.0])
def test_a_walker_stays_in_place_and_faces_the_camera(turn_rate: float) -> None:
    captured = walk(20, turn_rate=turn_rate)
    stage = Staging(FIELDS)
    staged = [stage(f) for f in captured]
    assert max(np.linalg.norm(f.transl) for f in staged) <= FIELDS.reach + 1e-6
    for f in staged:
        forward = facing(f)
        assert abs(np.arctan2(forward[0], forward[2])) <= FIELDS.turn + FIELDS.lean
        assert forward[2] > 0.8
    (metres, turns), (before, turned) = moves(staged), moves(captured)
    assert metres <= before + 1e-6
    assert turns <= turned + 1e-6
    assert np.std([f.transl[1] for f in staged[100:]]) > 0.002  # the bounce is not all lost


def test_a_seated_speaker_keeps_small_movements() -> None:
    """Small turns, leans and shifts come through nearly as captured, wherever the speaker sits and looks."""
    rest, stage = np.array([0.2, 1.3, 0.4]), Staging(FIELDS)
    stage(frame(0, np.array([0.0, 1.0, 0.0]), rest))
    root = rotation.multiply(rotation.about(UP, 1.1), rotation.about([1.0, 0.0, 0.0], 0.05))
    shift = rotation.rotate(rotation.about(UP, 1.0), [0.01, 0.0, 0.0])  # a centimetre to the speaker's own left
    staged = stage(frame(40_000_000, rotation.quaternion_to_axis_angle(root), rest + shift))
    np.testing.assert_allclose(staged.transl, [0.01, 0.0, 0.0], atol=1.5e-3)
    expected = rotation.multiply(rotation.about(UP, 0.1), rotation.about([1.0, 0.0, 0.0], 0.05))
    np.testing.assert_allclose(staged.pose[:3], rotation.quaternion_to_axis_angle(expected), atol=6e-3)


def test_only_the_root_changes_and_the_captured_frame_does_not() -> None:
    captured = walk(1)
    copies = [(f.pose.copy(), f.transl.copy()) for f in captured]
    stage = Staging(FIELDS)
    for original, (pose, transl) in zip(captured, copies, strict=True):
        staged = stage(original)
        assert np.array_equal(staged.pose[3:], pose[3:])
        assert np.array_equal(staged.expression, original.expression)
        assert staged.time_ns == original.time_ns
        assert staged.pose.dtype == staged.transl.dtype == np.float32
        assert np.array_equal(original.pose, pose)
        assert np.array_equal(original.transl, transl)


def test_the_first_frame_after_a_reset_is_the_front() -> None:
    frames, stage = walk(3), Staging(FIELDS)
    for f in frames:
        stage(f)
    stage.reset()
    staged = stage(frames[-1])
    assert np.array_equal(staged.transl, np.zeros(3))
    assert abs(facing(staged)[0]) < 0.02


def test_a_bow_is_kept_within_its_limit() -> None:
    stage = Staging(FIELDS)
    staged = stage(frame(0, np.array([1.2, 0.0, 0.0]), np.zeros(3)))
    assert 0.15 < staged.pose[0] <= FIELDS.lean
    np.testing.assert_allclose(staged.pose[1:3], 0.0, atol=1e-6)


def test_time_that_stands_still_or_jumps_does_no_harm() -> None:
    stage, captured = Staging(FIELDS), walk(2)
    stage(captured[0])
    for f, time_ns in zip(captured[1:4], (0, -(10**15), 10**18), strict=True):
        staged = stage(PoseFrame(time_ns, f.pose, f.expression, f.transl))
        assert np.isfinite(staged.pose).all()
        assert np.linalg.norm(staged.transl) <= FIELDS.reach + 1e-6


def test_free_is_as_captured() -> None:
    captured = walk(1)[5]
    assert Staging(RootFields("free"))(captured) is captured


def test_a_limit_of_nothing_holds_still() -> None:
    stage = Staging(RootFields(reach=0.0, turn=0.0, lean=0.0))
    for f in walk(1):
        staged = stage(f)
        np.testing.assert_allclose(staged.pose[:3], 0.0, atol=1e-6)
        np.testing.assert_allclose(staged.transl, 0.0, atol=1e-6)
