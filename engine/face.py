"""The face in a picture, known from the body alone: five points, the aligned crop, and which triangles are face."""

from __future__ import annotations

import numpy as np

from engine.body import Body
from engine.camera import Camera
from engine.skeleton import joint_index

CROP = 256

# FFHQ's five points in a 512 pixel crop, pixel centres at whole numbers: the eye on the picture's left, the one on its
# right, the nose tip, the corners of the mouth.
TEMPLATE = ((192.98, 239.95), (318.90, 240.19), (256.63, 314.02), (201.26, 371.41), (313.09, 371.15))
TEMPLATE_SIZE = 512

# Where the 51 landmarks (iBUG 68 without the contour) show what.
BROWS, NOSE_TIP, NOSE_BASE = slice(0, 10), 13, 16
EYES, EYE_CORNERS, MOUTH_CORNERS = (slice(19, 25), slice(25, 31)), (19, 28), (31, 37)


def five_points(body: Body, vertices: np.ndarray, camera: Camera) -> np.ndarray:
    """Eye centres, nose tip, mouth corners of posed vertices (V, 3), in the template's order: (5, 2) float32 pixels."""
    marks = body.landmarks(vertices)
    points = np.stack(
        [marks[EYES[0]].mean(axis=0), marks[EYES[1]].mean(axis=0), marks[NOSE_TIP], *marks[list(MOUTH_CORNERS)]]
    )
    return camera.project(points)[:, :2].astype(np.float32)


def align(points: np.ndarray, size: int = CROP) -> np.ndarray:
    """The similarity (2, 3) float32 that takes points (5, 2) nearest to the template of a `size` pixel crop.

    Least squares over rotation, scale and translation without reflection (Umeyama 1991), which in the plane is one
    division of complex numbers. ValueError where the points coincide.
    """
    target = (np.asarray(TEMPLATE, np.float64) + 0.5) * (size / TEMPLATE_SIZE)
    p, q = (np.ascontiguousarray(a, np.float64).view(np.complex128)[:, 0] for a in (points, target))
    centred = p - p.mean()
    spread = np.vdot(centred, centred).real
    if not spread > 1e-9:
        raise ValueError("the five points coincide or are not finite")
    turn = np.vdot(centred, q - q.mean()) / spread
    shift = q.mean() - turn * p.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]], np.float32)


def face_region(body: Body) -> np.ndarray:
    """(F,) bool: the triangles that are face, from forehead to chin and in front of the ears; for any SMPL-X file.

    They follow the head, jaw or eyes, and in the template lie in front of a plane behind the eyes and below the
    hairline, which lies a little less far above the tops of the brows than the nose base lies below them.
    """
    rest, marks = body.template, body.landmarks(body.template)
    follows = body.model.weights[:, [joint_index(name) for name in ("head", "jaw", "left_eye", "right_eye")]].sum(
        axis=1
    )
    eyes = [marks[eye].mean(axis=0) for eye in EYES]
    brow = marks[BROWS, 1].max()
    hairline = brow + 0.65 * (brow - marks[NOSE_BASE, 1])
    behind = marks[list(EYE_CORNERS), 2].mean() - 0.6 * np.linalg.norm(eyes[0] - eyes[1])
    face = (follows > 0.5) & (rest[:, 1] < hairline) & (rest[:, 2] > behind)
    return np.asarray(face[body.faces].all(axis=1))
