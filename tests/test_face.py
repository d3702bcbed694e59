"""The face crop: points, alignment, the camera that sees the crop, and the way there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import face
from engine.body import Body, BodyModel
from engine.camera import look_at
from engine.condition import Condition
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS, joint_slice
from engine.standin import standin_path

CAMERA = look_at((0.0, 0.2, 1.9), (0.0, 0.15, 0.0), 512, 0.55)


@pytest.fixture(scope="module")
def body() -> Body:
    return BodyModel.load(standin_path()).shaped()


@pytest.fixture(scope="module")
def tilted(body: Body) -> np.ndarray:
    """Vertices of somebody whose head is turned and tilted."""
    pose = np.zeros(POSE_DIMS, np.float32)
    pose[joint_slice("head")] = (0.1, 0.2, 0.35)
    return body.vertices(pose, np.zeros(EXPRESSION_DIMS, np.float32), np.zeros(3, np.float32))


similarities = st.tuples(
    st.floats(0.3, 4.0), st.floats(-3.1, 3.1), st.floats(-300.0, 300.0), st.floats(-300.0, 300.0)
).map(lambda s: similarity(*s))


def similarity(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, x], [sin, cos, y]])


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.asarray(points @ transform[:, :2].T + transform[:, 2])


def smooth_picture(seed: int, size: int = 512) -> np.ndarray:
    """Waves so long that bilinear resampling loses next to nothing."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    waves = [
        np.sin(2 * np.pi * (rng.uniform(-3, 3) * x + rng.uniform(-3, 3) * y) + rng.uniform(0, 6)) for _ in range(3)
    ]
    return np.stack([127.5 + 110 * wave for wave in waves], axis=2).astype(np.uint8)


@given(similarities, st.sampled_from([256, 512]))
def test_align_recovers_the_transform(transform: np.ndarray, size: int) -> None:
    target = (np.array(face.TEMPLATE) + 0.5) * size / 512
    points = apply(face.invert(transform), target)
    np.testing.assert_allclose(apply(face.align(points, size), points), target, atol=0.01)


def test_align_is_the_best_similarity() -> None:
    """Distorted points: no nearby similarity comes closer to the template."""
    rng = np.random.default_rng(2)
    target = (np.array(face.TEMPLATE) + 0.5) / 2
    points = apply(face.invert(similarity(1.7, 0.4, -200, -90)), target + rng.normal(0, 6, (5, 2)))
    best = face.align(points).astype(np.float64)
    error = ((apply(best, points) - target) ** 2).sum()
    assert best[0, 0] == pytest.approx(best[1, 1])
    assert best[0, 1] == pytest.approx(-best[1, 0])
    for _ in range(50):
        scale, angle, x, y = rng.normal(0, (0.01, 0.01, 1.0, 1.0))
        change = similarity(1 + scale, angle, x, y)
        assert ((apply(change, apply(best, points)) - target) ** 2).sum() > error - 1e-6
    with pytest.raises(ValueError, match="coincide"):
        face.align(np.ones((5, 2)))
    with pytest.raises(ValueError, match="not finite"):
        face.align(np.full((5, 2), np.nan))


def test_five_points(body: Body, tilted: np.ndarray) -> None:
    points = face.five_points(body, tilted, CAMERA)
    assert points.shape == (5, 2)
    left, right, nose, mouth_left, mouth_right = points
    assert left[0] < nose[0] < right[0]
    assert mouth_left[0] < mouth_right[0]
    assert max(left[1], right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])
    transform = face.align(points)
    found = apply(transform.astype(np.float64), points.astype(np.float64))
    assert np.abs(found - np.array(face.TEMPLATE) / 2).max() < 15  # a turned head is no similarity of the template


def test_crop_camera_sees_the_crop(body: Body, tilted: np.ndarray) -> None:
    transform = face.align(face.five_points(body, tilted, CAMERA)).astype(np.float64)
    camera = face.crop_camera(CAMERA, transform)
    seen, picture = camera.project(tilted), CAMERA.project(tilted)
    np.testing.assert_allclose(seen[:, :2], apply(transform, picture[:, :2]), atol=1e-3)
    np.testing.assert_allclose(seen[:, 2], picture[:, 2], rtol=1e-6)
    assert (camera.width, camera.height) == (256, 256)
    # Rendered into the crop, or rendered and then warped: the same mesh in the same place.
    direct, whole = Condition(body, camera, "authors").render(tilted), Condition(body, CAMERA, "authors").render(tilted)
    warped = face.warp(whole, transform)
    assert np.abs(direct.astype(int) - warped).mean() < 3.0
    assert np.median(np.abs(direct.astype(int) - warped)[direct.any(axis=2)]) <= 1.0


def test_crop_camera_refuses_what_no_camera_can_see() -> None:
    for transform in ([[1, 0, 0], [0, 2, 0]], [[1, 0, 0], [0, -1, 0]], [[1, 0.3, 0], [0, 1, 0]]):
        with pytest.raises(ValueError, match="only a similarity"):
            face.crop_camera(CAMERA, np.array(transform, np.float64))


@settings(max_examples=12)
@given(st.floats(0.8, 3.0), st.floats(-0.8, 0.8), st.integers(0, 2**16))
def test_there_and_back(scale: float, angle: float, seed: int) -> None:
    """An untouched crop pasted back leaves the picture as it was, up to resampling."""
    picture = smooth_picture(seed)
    transform = similarity(scale, angle, 0.0, 0.0)
    transform[:, 2] = 128 - transform[:, :2] @ (250.0, 240.0)
    alpha = face.feather()
    pasted = face.blend(picture, face.warp(picture, transform), transform, alpha)
    assert np.abs(pasted.astype(int) - picture).max() <= 2
    red = np.zeros((256, 256, 3), np.uint8)
    red[..., 0] = 255
    marked = face.blend(picture, red, transform, alpha)
    np.testing.assert_array_equal(marked[240, 250], (255, 0, 0))
    y, x = np.mgrid[:512, :512] + 0.5
    inside = apply(transform, np.stack([x, y], axis=2))
    outside = ((inside < 0) | (inside > 256)).any(axis=2)
    np.testing.assert_array_equal(marked[outside], picture[outside])


def test_a_crop_over_the_border() -> None:
    """Half of the crop lies outside of the picture: the border is repeated, and pasting touches the inside only."""
    picture = smooth_picture(1, 200)
    transform = similarity(1.5, 0.2, 150.0, 170.0)
    crop = face.warp(picture, transform)
    np.testing.assert_array_equal(crop[0, 0], picture[0, 0])
    pasted = face.blend(picture, crop, transform, face.feather())
    assert np.abs(pasted.astype(int) - picture).max() <= 2
    far = similarity(1.0, 0.0, 1000.0, 1000.0)
    np.testing.assert_array_equal(face.blend(picture, crop, far, face.feather()), picture)


def test_warp_is_the_identity_where_nothing_moves() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    np.testing.assert_array_equal(face.warp(picture, similarity(1, 0, 0, 0)), picture)
    moved = face.warp(picture, similarity(1, 0, -3, -5))
    np.testing.assert_array_equal(moved[:251, :253], picture[5:, 3:])


def test_in_place_and_fresh_agree() -> None:
    picture, crop = smooth_picture(3), smooth_picture(4, 256)
    transform = similarity(1.3, 0.1, -150.0, -120.0)
    fresh = face.blend(picture, crop, transform, face.feather())
    assert (fresh != picture).any()
    out = np.zeros_like(picture)
    assert face.blend(picture, crop, transform, face.feather(), out) is out
    np.testing.assert_array_equal(out, fresh)
    face.blend(picture, crop, transform, face.feather(), picture)
    np.testing.assert_array_equal(picture, fresh)


@pytest.mark.parametrize("size", [256, 512])
def test_feather(size: int) -> None:
    alpha = face.feather(size)
    assert alpha.shape == (size, size)
    assert alpha.dtype == np.float32
    np.testing.assert_allclose(alpha, alpha.T)
    np.testing.assert_allclose(alpha, alpha[::-1])
    assert alpha[size // 2, size // 2] == pytest.approx(1.0)
    assert not alpha[: round(19 * size / 512)].any()
    row = alpha[size // 2]
    assert (np.diff(row[: size // 2]) >= -1e-7).all()
    assert row[round(40 * size / 512)] == pytest.approx(0.5, abs=0.07)


def test_keep_mask() -> None:
    marked = np.array([[0, 1], [1, 0]], np.uint8)
    kept = face.keep_mask(marked)
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, [[1, 0], [0, 1]])
