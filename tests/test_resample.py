from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from engine.errors import InputError
from engine.pose import PoseClip, PoseFrame
from engine.resample import interpolate, resample


def make_clip(frames: int = 7, fps: float = 30.0, seed: int = 0) -> PoseClip:
    rng = np.random.default_rng(seed)
    return PoseClip(
        fps,
        rng.normal(0, 0.6, (frames, 165)).astype(np.float32),
        rng.normal(size=(frames, 100)).astype(np.float32),
        rng.normal(size=(frames, 3)).astype(np.float32),
        rng.normal(size=10).astype(np.float32),
    )


def matrices(pose: np.ndarray) -> np.ndarray:
    return Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix()


@given(st.floats(1.0, 240.0), st.integers(1, 12), st.sampled_from([24.0, 30.0, 120.0]))
def test_resample_agrees_with_scipy(fps: float, frames: int, source: float) -> None:
    clip = make_clip(frames, source)
    out = resample(clip, fps)
    assert out.fps == fps and len(out) == int((frames - 1) * fps / source + 1e-6) + 1
    times = np.minimum(np.arange(len(out)) / fps, (frames - 1) / source)
    if frames > 1:
        for joint in (0, 18, 40):
            turns = Rotation.from_rotvec(clip.poses[:, 3 * joint : 3 * joint + 3])
            expected = Slerp(np.arange(frames) / source, turns)(times)
            got = Rotation.from_rotvec(out.poses[:, 3 * joint : 3 * joint + 3])
            assert (expected.inv() * got).magnitude().max() < 2e-5
        expected_x = np.interp(times, np.arange(frames) / source, clip.transl[:, 0])
        np.testing.assert_allclose(out.transl[:, 0], expected_x, atol=1e-5)
        np.testing.assert_allclose(
            out.expressions[:, 7], np.interp(times, np.arange(frames) / source, clip.expressions[:, 7]), atol=1e-5
        )


def test_resampling_to_a_multiple_keeps_the_samples() -> None:
    clip = make_clip(9)
    out = resample(clip, 60.0)
    np.testing.assert_allclose(matrices(out.poses[::2]), matrices(clip.poses), atol=1e-5)
    np.testing.assert_allclose(out.expressions[::2], clip.expressions, atol=1e-6)
    assert resample(clip, 30.0) is clip
    np.testing.assert_array_equal(out.betas, clip.betas)


@pytest.mark.parametrize("fps", [0.0, -30.0, float("nan"), float("inf"), 1e9])
def test_absurd_rates_are_refused(fps: float) -> None:
    with pytest.raises(InputError, match="frame rate"):
        resample(make_clip(), fps)


@given(st.integers(0, 33_333_333))
def test_interpolate_is_resample_for_one_moment(offset: int) -> None:
    clip = make_clip(2)
    a, b = clip.frame(0, 5_000), clip.frame(1, 5_000)
    got = interpolate(a, b, a.time_ns + offset)
    assert got.time_ns == a.time_ns + offset
    t = offset / (b.time_ns - a.time_ns)
    for joint in range(55):
        s = slice(3 * joint, 3 * joint + 3)
        whole = Rotation.from_rotvec(a.pose[s]).inv() * Rotation.from_rotvec(b.pose[s])
        part = Rotation.from_rotvec(a.pose[s]).inv() * Rotation.from_rotvec(got.pose[s])
        np.testing.assert_allclose(part.as_rotvec(), whole.as_rotvec() * t, atol=2e-5)
    np.testing.assert_allclose(got.transl, a.transl * (1 - t) + b.transl * t, atol=1e-6)
    assert all(x.dtype == np.float32 for x in (got.pose, got.expression, got.transl))


def test_interpolate_outside_holds_the_nearer_frame() -> None:
    clip = make_clip(2)
    a, b = clip.frame(0, 1_000), clip.frame(1, 1_000)
    early, late = interpolate(a, b, 0), interpolate(a, b, b.time_ns + 1)
    assert early.time_ns == 0 and early.pose is a.pose
    assert late.time_ns == b.time_ns + 1 and late.pose is b.pose
    same = PoseFrame(a.time_ns, b.pose, b.expression, b.transl)  # two frames at one moment: the later one wins
    assert interpolate(a, same, a.time_ns).pose is b.pose
