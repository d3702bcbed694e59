"""Rotations in NumPy: axis-angle, unit quaternions (x, y, z, w) and matrices, over any leading dimensions.

Every function takes what `np.asarray` takes, computes in float64 and returns float32. Quaternions compose as matrices
do: `multiply(a, b)` turns by b first, then by a. Nothing here knows joints or bodies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

SMALL = 1e-12  # below this, squared lengths count as zero


def axis_angle_to_quaternion(axis_angle: ArrayLike) -> np.ndarray:
    """(..., 3) radians to unit quaternions (..., 4)."""
    return _quaternion(np.asarray(axis_angle, np.float64)).astype(np.float32)


def quaternion_to_axis_angle(quaternion: ArrayLike) -> np.ndarray:
    """(..., 4) of any length but zero to axis-angle (..., 3) with an angle in [0, pi]."""
    return _axis_angle(np.asarray(quaternion, np.float64)).astype(np.float32)


def axis_angle_to_matrix(axis_angle: ArrayLike) -> np.ndarray:
    """(..., 3) radians to rotation matrices (..., 3, 3)."""
    return _matrix(_quaternion(np.asarray(axis_angle, np.float64))).astype(np.float32)


def matrix_to_axis_angle(matrix: ArrayLike) -> np.ndarray:
    """Rotation matrices (..., 3, 3) to axis-angle (..., 3) with an angle in [0, pi]."""
    return _axis_angle(_from_matrix(np.asarray(matrix, np.float64))).astype(np.float32)


def quaternion_to_matrix(quaternion: ArrayLike) -> np.ndarray:
    """(..., 4) of any length but zero to rotation matrices (..., 3, 3)."""
    return _matrix(np.asarray(quaternion, np.float64)).astype(np.float32)


def matrix_to_quaternion(matrix: ArrayLike) -> np.ndarray:
    """Rotation matrices (..., 3, 3) to unit quaternions (..., 4) with w >= 0."""
    return _from_matrix(np.asarray(matrix, np.float64)).astype(np.float32)


def canonical_axis_angle(axis_angle: ArrayLike) -> np.ndarray:
    """The same rotations (..., 3) with angles in [0, pi]."""
    return _axis_angle(_quaternion(np.asarray(axis_angle, np.float64))).astype(np.float32)


def multiply(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Quaternions (..., 4): first b, then a. Leading dimensions broadcast."""
    return _multiply(np.asarray(a, np.float64), np.asarray(b, np.float64)).astype(np.float32)


def inverse(quaternion: ArrayLike) -> np.ndarray:
    """The opposite rotations of unit quaternions (..., 4)."""
    return (np.asarray(quaternion, np.float64) * (-1.0, -1.0, -1.0, 1.0)).astype(np.float32)


def rotate(quaternion: ArrayLike, vectors: ArrayLike) -> np.ndarray:
    """Vectors (..., 3) turned by unit quaternions (..., 4). Leading dimensions broadcast."""
    q, v = np.asarray(quaternion, np.float64), np.asarray(vectors, np.float64)
    side = 2.0 * np.cross(q[..., :3], v)
    return (v + q[..., 3:] * side + np.cross(q[..., :3], side)).astype(np.float32)


def slerp(a: ArrayLike, b: ArrayLike, t: ArrayLike) -> np.ndarray:
    """From unit quaternions a to b (..., 4), the shorter way at constant speed; t (...) is 0 at a, 1 at b.

    t beyond [0, 1] goes on at the same speed. Source: Shoemake, "Animating rotation with quaternion curves", 1985.
    """
    a, b, t = np.asarray(a, np.float64), np.asarray(b, np.float64), np.asarray(t, np.float64)[..., None]
    dot = (a * b).sum(-1, keepdims=True)
    b = np.where(dot < 0.0, -b, b)
    half = np.arctan2(np.linalg.norm(b - a, axis=-1, keepdims=True), np.linalg.norm(b + a, axis=-1, keepdims=True))
    angle = 2.0 * half  # in [0, pi/2]: between quaternions, half of the angle between rotations; exact when small
    near = angle < 1e-9
    safe = np.where(near, 1.0, angle)
    weight_a = np.where(near, 1.0 - t, np.sin((1.0 - t) * safe) / np.sin(safe))
    weight_b = np.where(near, t, np.sin(t * safe) / np.sin(safe))
    return _unit(weight_a * a + weight_b * b).astype(np.float32)


def swing_twist(quaternion: ArrayLike, axis: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Split unit quaternions (..., 4) into swing and twist: `multiply(swing, twist)` is the whole.

    The twist turns about `axis` (3,), the swing about an axis at right angles to it. A half turn about an axis at right
    angles has no twist of its own: there the twist is the identity.
    """
    q, unit = np.asarray(quaternion, np.float64), _unit(np.asarray(axis, np.float64))
    twist = np.concatenate([(q[..., :3] @ unit)[..., None] * unit, q[..., 3:]], -1)
    lost = (twist * twist).sum(-1, keepdims=True) < SMALL
    twist = _unit(np.where(lost, (0.0, 0.0, 0.0, 1.0), twist))
    swing = _multiply(q, twist * (-1.0, -1.0, -1.0, 1.0))
    return swing.astype(np.float32), twist.astype(np.float32)


def between(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """The smallest rotations (..., 4) that turn directions a to b (..., 3); where they are opposite, about any axis."""
    a, b = np.broadcast_arrays(_unit(np.asarray(a, np.float64)), _unit(np.asarray(b, np.float64)))
    q = np.concatenate([np.cross(a, b), 1.0 + (a * b).sum(-1, keepdims=True)], -1)
    other = np.where(np.abs(a[..., :1]) < 0.6, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))  # never along a
    half_turn = np.concatenate([np.cross(a, other), np.zeros_like(a[..., :1])], -1)
    opposite = (q * q).sum(-1, keepdims=True) < SMALL
    return _unit(np.where(opposite, half_turn, q)).astype(np.float32)


def about(axis: ArrayLike, angle: ArrayLike) -> np.ndarray:
    """Quaternions (..., 4) that turn by `angle` (...) radians about the direction `axis` (3,)."""
    return axis_angle_to_quaternion(np.asarray(angle, np.float64)[..., None] * _unit(np.asarray(axis, np.float64)))


def _unit(v: np.ndarray) -> np.ndarray:
    return np.asarray(v / np.linalg.norm(v, axis=-1, keepdims=True))


def _quaternion(axis_angle: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(axis_angle, axis=-1, keepdims=True)
    return np.concatenate([axis_angle * 0.5 * np.sinc(angle / (2.0 * np.pi)), np.cos(0.5 * angle)], -1)


def _axis_angle(q: np.ndarray) -> np.ndarray:
    q = np.where(q[..., 3:] < 0.0, -q, q)
    sine = np.linalg.norm(q[..., :3], axis=-1, keepdims=True)
    tiny = sine < 1e-9 * q[..., 3:]
    angle = 2.0 * np.arctan2(sine, q[..., 3:])
    factor = np.where(tiny, 2.0 / np.where(tiny, q[..., 3:], 1.0), angle / np.where(tiny, 1.0, sine))
    return np.asarray(q[..., :3] * factor)


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    ax, ay, az, aw = (a[..., i] for i in range(4))
    bx, by, bz, bw = (b[..., i] for i in range(4))
    return np.stack(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ],
        -1,
    )


def _matrix(q: np.ndarray) -> np.ndarray:
    x, y, z, w = (c for c in np.moveaxis(_unit(q), -1, 0))
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _from_matrix(m: np.ndarray) -> np.ndarray:
    """Each row below is the quaternion times four times one of its parts: take the one with the largest part."""
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    xw, yw, zw = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    rows = np.stack(
        [
            np.stack([1 + xx - yy - zz, xy, xz, xw], -1),
            np.stack([xy, 1 - xx + yy - zz, yz, yw], -1),
            np.stack([xz, yz, 1 - xx - yy + zz, zw], -1),
            np.stack([xw, yw, zw, 1 + xx + yy + zz], -1),
        ],
        -2,
    )  # (..., 4, 4)
    largest = np.argmax(np.diagonal(rows, axis1=-2, axis2=-1), -1)[..., None, None]
    q = _unit(np.take_along_axis(rows, np.broadcast_to(largest, (*rows.shape[:-2], 1, 4)), -2)[..., 0, :])
    return np.asarray(np.where(q[..., 3:] < 0.0, -q, q))
