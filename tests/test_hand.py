"""The hands' crops: where they lie, that a hand fits into its own, and which triangles are hand."""

from __future__ import annotations

import numpy as np
import pytest

from engine import hand
from engine.body import Body, BodyModel
from engine.camera import look_at
from engine.condition import Condition
from engine.crop import warp
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from engine.standin import standin_path
from engine.training.talk.gestures import explore

CAMERA = look_at((0.0, 0.2, 2.6), (0.0, 0.15, 0.0), 512, 0.55)


@pytest.fixture(scope="module")
def body() -> Body:
    return BodyModel.load(standin_path()).shaped()


def hand_vertices(body: Body, side: str) -> np.ndarray:
    return np.asarray(body.model.weights[:, hand.hand_joints(side)].sum(axis=1) > 0.5)


def test_a_hand_fits_into_its_crop_and_moves_smoothly(body: Body) -> None:
    motion = explore(200, 25.0, 5)
    before: np.ndarray | None = None
    for i in range(len(motion)):
        frame = motion.frame(i)
        joints = body.joints(frame.pose, frame.expression, frame.transl)
        vertices = body.vertices(frame.pose, frame.expression, frame.transl)
        transforms = hand.crops(body, CAMERA, joints, 128)
        for side, transform in zip(hand.SIDES, transforms, strict=True):
            seen = CAMERA.project(vertices[hand_vertices(body, side)])[:, :2]
            inside = seen @ transform[:, :2].T + transform[:, 2]
            assert 0 < inside.min() < inside.max() < 128
        if before is not None:  # no flips: from one frame to the next the scale hardly changes
            np.testing.assert_allclose(transforms[:, 1, 1], before[:, 1, 1], rtol=0.1)
        before = transforms


def test_the_left_hand_is_mirrored_and_the_right_one_is_not(body: Body) -> None:
    """At rest the body is symmetric, so the hands' crops show the same shape; colours are those of the picture."""
    rest = (np.zeros(POSE_DIMS, np.float32), np.zeros(EXPRESSION_DIMS, np.float32), np.zeros(3, np.float32))
    far = look_at((0.0, 0.2, 6.0), (0.0, 0.2, 0.0), 2048, 0.4)
    condition = Condition(body, far)
    picture = condition.render(body.vertices(*rest))
    left, right = hand.crops(body, far, body.joints(*rest))
    assert left[0, 0] < 0 < right[0, 0]
    crops = [warp(picture, transform, hand.CROP) for transform in (left, right)]
    shown = [crop.any(axis=2) for crop in crops]
    assert (shown[0] == shown[1]).mean() > 0.99
    red, green, _ = np.stack([crop[shown[0] & shown[1]].astype(float) for crop in crops]).T  # the normal's x, y
    assert np.corrcoef(red.T)[0, 1] < -0.4
    assert np.corrcoef(green.T)[0, 1] > 0.9


def test_the_crop_is_as_wide_in_metres_wherever_the_hand_is(body: Body) -> None:
    points = np.concatenate([np.random.default_rng(0).normal(100, 9, (16, 2)), np.full((16, 1), 2.0)], axis=1)
    near, far = hand.align(points, "right", 100.0, 128), hand.align(points * (1, 1, 2), "right", 100.0, 128)
    assert far[0, 0] == pytest.approx(2 * near[0, 0])
    assert near[0, 0] == near[1, 1]
    assert near[0, 1] == near[1, 0] == 0


def test_the_region_is_each_hand_on_its_own(body: Body) -> None:
    region = hand.hand_region(body)
    assert region.shape == (len(body.faces),)
    assert region.dtype == np.uint8
    middle = body.template[body.faces].mean(axis=1)
    assert (region == 1).sum() == pytest.approx((region == 2).sum(), rel=0.05)
    assert middle[region == 1, 0].min() > 0.4  # the left hand is on +x
    assert middle[region == 2, 0].max() < -0.4


def test_the_mask_shows_the_hands_that_the_picture_shows(body: Body) -> None:
    motion = explore(20, 25.0, 7)
    frame = motion.frame(3)
    condition = Condition(body, CAMERA)
    vertices = body.vertices(frame.pose, frame.expression, frame.transl)
    picture = condition.render(vertices)
    mask = condition.hand_mask()
    assert set(np.unique(mask)) <= {0, 1, 2}
    for mark, side in enumerate(hand.SIDES, start=1):
        seen = CAMERA.project(vertices[hand_vertices(body, side)])[:, :2]
        low, high = seen.min(axis=0), seen.max(axis=0)
        y, x = np.nonzero(mask == mark)
        assert len(y) > 200
        assert picture[y, x].any(axis=1).all()
        assert low[0] - 1 <= x.min() and x.max() <= high[0] + 1
        assert low[1] - 1 <= y.min() and y.max() <= high[1] + 1
