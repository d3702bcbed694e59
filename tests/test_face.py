"""The aligned face: its points, and the similarity that takes them to the template."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import face
from engine.body import Body, BodyModel
from engine.camera import look_at
from engine.crop import invert
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


@given(similarities, st.sampled_from([256, 512]))
def test_align_recovers_the_transform(transform: np.ndarray, size: int) -> None:
    target = (np.array(face.TEMPLATE) + 0.5) * size / 512
    points = apply(invert(transform), target)
    np.testing.assert_allclose(apply(face.align(points, size), points), target, atol=0.01)


def test_align_is_the_best_similarity() -> None:
    """Distorted points: no nearby similarity comes closer to the template."""
    rng = np.random.default_rng(2)
    target = (np.array(face.TEMPLATE) + 0.5) / 2
    points = apply(invert(similarity(1.7, 0.4, -200, -90)), target + rng.normal(0, 6, (5, 2)))
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
