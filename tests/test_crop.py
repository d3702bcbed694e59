"""A crop of a picture: the camera that sees it, the way there and back, and masks that are cut and softened."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import face
from engine.body import Body, BodyModel
from engine.camera import look_at
from engine.condition import Condition
from engine.crop import blend, crop_camera, feather, invert, soften, warp, warp_mask
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS, joint_slice
from engine.standin import standin_path

SIZE = 256
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


def test_crop_camera_sees_the_crop(body: Body, tilted: np.ndarray) -> None:
    transform = face.align(face.five_points(body, tilted, CAMERA)).astype(np.float64)
    camera = crop_camera(CAMERA, transform, SIZE)
    seen, picture = camera.project(tilted), CAMERA.project(tilted)
    np.testing.assert_allclose(seen[:, :2], apply(transform, picture[:, :2]), atol=1e-3)
    np.testing.assert_allclose(seen[:, 2], picture[:, 2], rtol=1e-6)
    assert (camera.width, camera.height) == (256, 256)
    # Rendered into the crop, or rendered and then warped: the same mesh in the same place.
    direct, whole = Condition(body, camera, "authors").render(tilted), Condition(body, CAMERA, "authors").render(tilted)
    warped = warp(whole, transform, SIZE)
    assert np.abs(direct.astype(int) - warped).mean() < 3.0
    assert np.median(np.abs(direct.astype(int) - warped)[direct.any(axis=2)]) <= 1.0


def test_crop_camera_refuses_what_no_camera_can_see() -> None:
    for transform in ([[1, 0, 0], [0, 2, 0]], [[1, 0, 0], [0, -1, 0]], [[1, 0.3, 0], [0, 1, 0]]):
        with pytest.raises(ValueError, match="only a similarity"):
            crop_camera(CAMERA, np.array(transform, np.float64), SIZE)


@settings(max_examples=12)
@given(st.floats(0.8, 3.0), st.floats(-0.8, 0.8), st.integers(0, 2**16))
def test_there_and_back(scale: float, angle: float, seed: int) -> None:
    """An untouched crop pasted back leaves the picture as it was, up to resampling."""
    picture = smooth_picture(seed)
    transform = similarity(scale, angle, 0.0, 0.0)
    transform[:, 2] = 128 - transform[:, :2] @ (250.0, 240.0)
    alpha = feather(SIZE)
    pasted = blend(picture, warp(picture, transform, SIZE), transform, alpha)
    assert np.abs(pasted.astype(int) - picture).max() <= 2
    red = np.zeros((256, 256, 3), np.uint8)
    red[..., 0] = 255
    marked = blend(picture, red, transform, alpha)
    np.testing.assert_array_equal(marked[240, 250], (255, 0, 0))
    y, x = np.mgrid[:512, :512] + 0.5
    inside = apply(transform, np.stack([x, y], axis=2))
    outside = ((inside < 0) | (inside > 256)).any(axis=2)
    np.testing.assert_array_equal(marked[outside], picture[outside])


def test_a_crop_over_the_border() -> None:
    """Half of the crop lies outside of the picture: the border is repeated, and pasting touches the inside only."""
    picture = smooth_picture(1, 200)
    transform = similarity(1.5, 0.2, 150.0, 170.0)
    crop = warp(picture, transform, SIZE)
    np.testing.assert_array_equal(crop[0, 0], picture[0, 0])
    pasted = blend(picture, crop, transform, feather(SIZE))
    assert np.abs(pasted.astype(int) - picture).max() <= 2
    far = similarity(1.0, 0.0, 1000.0, 1000.0)
    np.testing.assert_array_equal(blend(picture, crop, far, feather(SIZE)), picture)


def test_warp_is_the_identity_where_nothing_moves() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    np.testing.assert_array_equal(warp(picture, similarity(1, 0, 0, 0), SIZE), picture)
    moved = warp(picture, similarity(1, 0, -3, -5), SIZE)
    np.testing.assert_array_equal(moved[:251, :253], picture[5:, 3:])


def test_in_place_and_fresh_agree() -> None:
    picture, crop = smooth_picture(3), smooth_picture(4, 256)
    transform = similarity(1.3, 0.1, -150.0, -120.0)
    fresh = blend(picture, crop, transform, feather(SIZE))
    assert (fresh != picture).any()
    out = np.zeros_like(picture)
    assert blend(picture, crop, transform, feather(SIZE), out) is out
    np.testing.assert_array_equal(out, fresh)
    blend(picture, crop, transform, feather(SIZE), picture)
    np.testing.assert_array_equal(picture, fresh)


@pytest.mark.parametrize("size", [256, 512])
def test_feather(size: int) -> None:
    alpha = feather(size)
    assert alpha.shape == (size, size)
    assert alpha.dtype == np.float32
    np.testing.assert_allclose(alpha, alpha.T)
    np.testing.assert_allclose(alpha, alpha[::-1])
    assert alpha[size // 2, size // 2] == pytest.approx(1.0)
    assert not alpha[: round(19 * size / 512)].any()
    row = alpha[size // 2]
    assert (np.diff(row[: size // 2]) >= -1e-7).all()
    assert row[round(40 * size / 512)] == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mirrored_crop_comes_back_as_it_was(mirrored: bool) -> None:
    picture = smooth_picture(6)
    transform = np.array([[-1.1 if mirrored else 1.1, 0, 300.0 if mirrored else -160], [0, 1.1, -190]])
    cut = warp(picture, transform, SIZE)
    plain = warp(picture, np.array([[1.1, 0, -(300.0 - SIZE) if mirrored else -160], [0, 1.1, -190]]), SIZE)
    assert np.abs(cut[:, ::-1].astype(int) - plain if mirrored else cut.astype(int) - plain).max() <= 1
    pasted = blend(picture, cut, transform, feather(SIZE))
    assert np.abs(pasted.astype(int) - picture).max() <= 2


def test_a_mask_is_the_warped_picture_of_its_mark() -> None:
    """The slow way: paint the mark white, warp that as a picture. Outside of the picture nobody is."""
    marks = np.random.default_rng(0).integers(0, 3, (40, 50), np.uint8).repeat(5, 0).repeat(5, 1)
    for transform in (similarity(1.3, 0.2, -30.0, 20.0), similarity(0.7, -0.3, 90.0, 60.0)):
        picture = np.repeat((marks == 2)[..., None] * np.uint8(255), 3, axis=2)
        slow, mask = warp(picture, transform, 128)[..., 0], warp_mask(marks, 2, transform, 128)
        y, x = np.mgrid[:128, :128] + 0.5
        u, v = apply(invert(transform), np.stack([x, y], axis=2)).transpose(2, 0, 1)
        inside = (u >= 0) & (u < 250) & (v >= 0) & (v < 200)
        assert np.abs(mask.astype(int) - slow)[inside].max() <= 1
        assert not mask[~inside].any()
        assert inside.any() and mask.any()
    with pytest.raises(ValueError, match="out must be"):
        warp_mask(marks, 2, transform, 128, np.empty((64, 64), np.uint8))


def test_softening_is_the_mean_of_a_square() -> None:
    mask = np.random.default_rng(1).integers(0, 2, (8, 8), np.uint8).repeat(8, 0).repeat(8, 1) * np.uint8(255)
    radius = 4  # of 64
    padded = np.pad(mask.astype(float), radius)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1,) * 2)
    expected = np.minimum(4 * windows.mean((2, 3)), 255)
    soft = soften(mask)
    assert np.abs(soft - expected).max() <= 0.5 + 1e-6
    assert (soft[mask == 255] > 127).all()
    assert soften(mask, mask) is mask
    np.testing.assert_array_equal(mask, soft)
