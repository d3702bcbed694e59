"""Where a face's landmarks lie on the stand-in: found by shooting at the mesh, as its maker cannot be asked."""

from __future__ import annotations

import numpy as np

from engine.skeleton import joint_index


def landmarks(
    template: np.ndarray, faces: np.ndarray, eyes: tuple[np.ndarray, np.ndarray], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """51 iBUG landmarks without the jaw line, found by shooting from the front at places measured from eyes and mouth."""
    left, right = eyes
    span = left[0] - right[0]  # between the pupils
    top = 0.5 * (left[1] + right[1])
    lip = _lip_line(template, top, span)
    x, y = _template_points(span)
    places = np.stack([x, top + y * (top - lip)], axis=1)
    return _shoot(template, faces, places, weights)


def _lip_line(template: np.ndarray, top: float, span: float) -> float:
    """Height at which the lips meet: the deepest notch of the profile between the nose tip and the chin."""
    middle = template[
        (np.abs(template[:, 0]) < 0.004) & (template[:, 1] < top - 0.4 * span) & (template[:, 1] > top - 1.6 * span)
    ]
    middle = middle[middle[:, 2] > 0.1]
    heights = np.linspace(top - 1.25 * span, top - 0.85 * span, 60)
    profile = [middle[np.abs(middle[:, 1] - h) < 0.0025][:, 2].max(initial=-1.0) for h in heights]
    seen = np.where(np.array(profile) < 0, np.nan, profile)
    return float(heights[int(np.nanargmin(seen))])


def _template_points(span: float) -> tuple[np.ndarray, np.ndarray]:
    """x in metres and y in units of the distance from the eyes to the lips (negative is below the eyes), (51,) each."""
    brow_x = np.array([-0.92, -0.76, -0.58, -0.40, -0.22])
    brow_y = np.array([0.30, 0.40, 0.43, 0.40, 0.33])
    nose = [
        (0, 0.02),
        (0, -0.18),
        (0, -0.36),
        (0, -0.54),
        (-0.22, -0.64),
        (-0.11, -0.68),
        (0, -0.70),
        (0.11, -0.68),
        (0.22, -0.64),
    ]
    eye_x, eye_y = np.array([-0.24, -0.10, 0.10, 0.22, 0.10, -0.10]), np.array([0, 0.07, 0.07, 0, -0.06, -0.06])
    outer = [(-0.47, -1.0), (-0.26, -0.93), (-0.10, -0.90), (0, -0.92), (0.10, -0.90), (0.26, -0.93), (0.47, -1.0),
             (0.24, -1.09), (0.11, -1.13), (0, -1.14), (-0.11, -1.13), (-0.24, -1.09)]  # fmt: skip
    inner = [
        (-0.40, -1.0),
        (-0.12, -0.985),
        (0, -0.985),
        (0.12, -0.985),
        (0.40, -1.0),
        (0.12, -1.015),
        (0, -1.015),
        (-0.12, -1.015),
    ]
    x = np.concatenate(
        [brow_x, -brow_x[::-1], [p[0] for p in nose], eye_x - 0.5, eye_x + 0.5, [p[0] for p in outer + inner]]
    )
    y = np.concatenate([brow_y, brow_y[::-1], [p[1] for p in nose], eye_y, eye_y, [p[1] for p in outer + inner]])
    return x * span, y


def _shoot(
    template: np.ndarray, faces: np.ndarray, places: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The frontmost face and barycentric coordinates at each (x, y), skin of the head only."""
    joints = weights.argmax(1)
    skin = np.isin(joints[faces], [joint_index("head"), joint_index("jaw")]).all(1) & (
        template[faces][:, :, 2].min(1) > 0.03
    )
    numbers = np.nonzero(skin)[0]
    a, b, c = (template[faces[numbers, k]] for k in range(3))
    found, bary = [], []
    for x, y in places:
        area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
        v = ((x - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (y - a[:, 1])) / np.where(area == 0, 1, area)
        w = ((b[:, 0] - a[:, 0]) * (y - a[:, 1]) - (x - a[:, 0]) * (b[:, 1] - a[:, 1])) / np.where(area == 0, 1, area)
        inside = (v >= -1e-6) & (w >= -1e-6) & (v + w <= 1 + 1e-6) & (area != 0)
        depth = np.where(inside, a[:, 2] + v * (b[:, 2] - a[:, 2]) + w * (c[:, 2] - a[:, 2]), -np.inf)
        hit = int(depth.argmax())
        if not np.isfinite(depth[hit]):
            raise AssertionError(f"no face under landmark {x:.3f}, {y:.3f}")
        found.append(numbers[hit])
        bary.append([1 - v[hit] - w[hit], v[hit], w[hit]])
    return np.array(found), np.array(bary)


def contour(template: np.ndarray, faces: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The jaw line (17) for each of 79 head turns: the outermost point of the lower head as seen from there."""
    joints = weights.argmax(1)
    head = np.isin(joints[faces], [joint_index("head"), joint_index("jaw")]).all(1)
    numbers = np.nonzero(head)[0]
    centres = template[faces[numbers]].mean(1)
    middle = np.array([0.0, centres[:, 1].mean(), 0.06])
    sweep = np.radians(np.linspace(170, 370, 17))
    rows = []
    for turn in np.radians(np.arange(-39, 40)):
        right = np.array([np.cos(turn), 0.0, -np.sin(turn)])
        flat = np.stack([(centres - middle) @ right, centres[:, 1] - middle[1]], axis=1)
        rows.append([numbers[int((flat @ [np.cos(a), np.sin(a)]).argmax())] for a in sweep])
    return np.array(rows), np.full((len(rows), 17, 3), 1 / 3)
