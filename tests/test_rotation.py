from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from engine import rotation

number = st.floats(-7.0, 7.0, width=32)
vector = st.tuples(number, number, number).map(lambda v: np.array(v, np.float32))
TOLERANCE = 2e-6  # a few float32 roundings


def same_turn(a: np.ndarray, b: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """Quaternions a and b are the same rotations, whatever their sign."""
    assert np.minimum(np.abs(a - b).max(-1), np.abs(a + b).max(-1)).max() < tolerance


@given(vector)
def test_conversions_agree_with_scipy(v: np.ndarray) -> None:
    theirs = Rotation.from_rotvec(v.astype(np.float64))
    q = rotation.axis_angle_to_quaternion(v)
    same_turn(q, theirs.as_quat())
    np.testing.assert_allclose(rotation.axis_angle_to_matrix(v), theirs.as_matrix(), atol=TOLERANCE)
    np.testing.assert_allclose(rotation.quaternion_to_matrix(q), theirs.as_matrix(), atol=TOLERANCE)
    same_turn(rotation.matrix_to_quaternion(theirs.as_matrix()), theirs.as_quat())


@given(vector)
def test_round_trips_keep_the_rotation(v: np.ndarray) -> None:
    q = rotation.axis_angle_to_quaternion(v)
    canonical = rotation.canonical_axis_angle(v)
    assert np.linalg.norm(canonical) <= np.pi + 1e-5
    same_turn(rotation.axis_angle_to_quaternion(canonical), q)
    same_turn(rotation.axis_angle_to_quaternion(rotation.quaternion_to_axis_angle(-3.0 * q)), q)
    same_turn(rotation.axis_angle_to_quaternion(rotation.matrix_to_axis_angle(rotation.axis_angle_to_matrix(v))), q)


@pytest.mark.parametrize("angle", [0.0, 1e-30, 1e-12, 1e-8, 1e-4, np.pi - 1e-4, np.pi - 1e-7, np.pi])
@pytest.mark.parametrize("axis", [(1, 0, 0), (0, -1, 0), (0.6, 0, 0.8), (-0.48, 0.6, 0.64)])
def test_tiny_and_half_turns(angle: float, axis: tuple[float, ...]) -> None:
    v = angle * np.array(axis)
    back = rotation.canonical_axis_angle(v)
    expected = Rotation.from_rotvec(v).as_quat()
    same_turn(Rotation.from_rotvec(back).as_quat(), expected)
    if angle < 3.0:  # small angles keep their relative accuracy, they do not drown in w = 1
        np.testing.assert_allclose(back, v, rtol=1e-6, atol=1e-38)
    same_turn(rotation.matrix_to_quaternion(rotation.axis_angle_to_matrix(v)), expected)


@given(vector, vector, vector)
def test_multiply_rotate_inverse(v: np.ndarray, w: np.ndarray, point: np.ndarray) -> None:
    a, b = rotation.axis_angle_to_quaternion(v), rotation.axis_angle_to_quaternion(w)
    theirs = Rotation.from_quat(a) * Rotation.from_quat(b)
    product = rotation.multiply(a, b)
    same_turn(product, theirs.as_quat())
    np.testing.assert_allclose(rotation.rotate(product, point), theirs.apply(point), atol=3e-5)
    same_turn(rotation.multiply(rotation.inverse(a), a), np.array([0.0, 0.0, 0.0, 1.0]))


@given(vector, vector, st.floats(0.0, 1.0))
def test_slerp_agrees_with_scipy(v: np.ndarray, w: np.ndarray, t: float) -> None:
    a, b = rotation.axis_angle_to_quaternion(v), rotation.axis_angle_to_quaternion(w)
    if abs(float(a @ b)) < 1e-3:
        return  # half a turn apart both ways are as short: tested below
    theirs = Slerp([0.0, 1.0], Rotation.from_quat(np.stack([a, b])))(t)
    same_turn(rotation.slerp(a, b, t), theirs.as_quat(), 1e-5)


def test_slerp_takes_the_short_way_at_constant_speed() -> None:
    a, b = rotation.axis_angle_to_quaternion((0, 0, 3.0)), rotation.axis_angle_to_quaternion((0, 0, -3.0))
    t = np.linspace(0, 1, 11)
    path = rotation.slerp(a, b, t)  # (11, 4), over the half turn: 0.283 rad, not 6
    steps = rotation.quaternion_to_axis_angle(rotation.multiply(rotation.inverse(path[:-1]), path[1:]))
    np.testing.assert_allclose(steps, np.tile([0, 0, (2 * np.pi - 6) / 10], (10, 1)), atol=1e-6)
    same_turn(rotation.slerp(a, -b, t), path)


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-7, np.pi - 1e-7, np.pi])
def test_slerp_is_safe_at_no_turn_and_half_a_turn(gap: float) -> None:
    a = rotation.axis_angle_to_quaternion((0.3, -0.2, 0.5))
    b = rotation.multiply(a, rotation.about((0, 1, 0), gap))
    middle = rotation.slerp(a, b, 0.5)
    assert np.isfinite(middle).all()
    same_turn(rotation.multiply(rotation.inverse(a), middle)[..., [1, 3]], np.array([np.sin(gap / 4), np.cos(gap / 4)]))
    same_turn(rotation.slerp(a, b, 0.0), a)
    same_turn(rotation.slerp(a, b, 1.0), b)


@given(vector, vector.filter(lambda v: np.linalg.norm(v) > 0.1))
def test_swing_twist_is_the_whole(v: np.ndarray, axis: np.ndarray) -> None:
    q = rotation.axis_angle_to_quaternion(v)
    swing, twist = rotation.swing_twist(q, axis)
    same_turn(rotation.multiply(swing, twist), q)
    unit = axis.astype(np.float64) / np.linalg.norm(axis.astype(np.float64))
    assert abs(swing[:3] @ unit) < 1e-5
    np.testing.assert_allclose(np.cross(twist[:3], unit), 0, atol=1e-6)


def test_a_half_turn_across_the_axis_has_no_twist() -> None:
    swing, twist = rotation.swing_twist(rotation.about((1, 0, 0), np.pi), (0, 1, 0))
    same_turn(twist, np.array([0, 0, 0, 1.0]))
    same_turn(swing, np.array([1.0, 0, 0, 0]))


@given(vector.filter(lambda v: np.linalg.norm(v) > 0.1), vector.filter(lambda v: np.linalg.norm(v) > 0.1))
def test_between_turns_one_onto_the_other(a: np.ndarray, b: np.ndarray) -> None:
    unit_a, unit_b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    np.testing.assert_allclose(rotation.rotate(rotation.between(a, b), unit_a), unit_b, atol=3e-6)
    np.testing.assert_allclose(rotation.rotate(rotation.between(a, -a), unit_a), -unit_a, atol=3e-6)


def test_leading_dimensions_and_types() -> None:
    v = np.random.default_rng(0).normal(size=(2, 3, 5, 3))
    q, m = rotation.axis_angle_to_quaternion(v), rotation.axis_angle_to_matrix(v)
    assert q.shape == (2, 3, 5, 4) and m.shape == (2, 3, 5, 3, 3)
    assert {x.dtype for x in (q, m, rotation.matrix_to_quaternion(m), rotation.slerp(q, q, 0.5))} == {np.dtype("f4")}
    assert rotation.axis_angle_to_quaternion(np.zeros((0, 3))).shape == (0, 4)
    same_turn(rotation.matrix_to_quaternion(m), q)
