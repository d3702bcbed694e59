"""The mesh condition: against pyrender where it is installed, against first principles everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.peers import pyrender_reference
from engine.body import Body, BodyModel
from engine.camera import Camera, look_at
from engine.condition import Condition, authors_camera, keypoints
from engine.face import face_region
from engine.shading import Scene
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS, joint_index, joint_slice
from engine.standin import expression_index, standin_path

CAMERAS = {
    "studio": look_at((0.0, 0.12, 1.7), (0.0, 0.12, 0.0), 512, 0.5),
    "authors": authors_camera(np.array([0.0, -0.1, 8.0])),
    "from the side": look_at((1.2, 0.5, 1.0), (0.0, 0.2, 0.0), 512, 0.6),
}


@pytest.fixture(scope="module")
def body() -> Body:
    return BodyModel.load(standin_path()).shaped()


@pytest.fixture(scope="module")
def speaking(body: Body) -> np.ndarray:
    """Vertices of a person who speaks with a hand before the chest."""
    pose, expression = np.zeros(POSE_DIMS, np.float32), np.zeros(EXPRESSION_DIMS, np.float32)
    for joint, turn in {
        "left_shoulder": (0.0, -0.3, -1.0), "right_shoulder": (0.0, 0.3, 1.0), "right_elbow": (0.3, 1.9, 0.3),
        "head": (0.1, -0.25, 0.05), "jaw": (0.2, 0.0, 0.0),
    }.items():  # fmt: skip
        pose[joint_slice(joint)] = turn
    expression[expression_index("smile")] = 2.0
    return body.vertices(pose, expression, np.zeros(3, np.float32))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("name", list(CAMERAS))
def test_equal_to_pyrender(body: Body, speaking: np.ndarray, name: str) -> None:
    reason = pyrender_reference.missing()
    if reason:
        pytest.skip(f"no reference renderer: {reason}")
    condition = Condition(body, CAMERAS[name], "authors")
    ours = condition.render(speaking)
    reference = pyrender_reference.render(speaking, body.faces, CAMERAS[name], Scene())
    covered, color = condition.raster.covered(), reference["color"].astype(int)
    assert covered.sum() > 20_000
    # Sampled once a pixel, as ours is, its silhouette is ours (with slack for another driver's rounding).
    assert overlap(covered, reference["silhouette"]) >= 0.9995
    # Its picture is smoothed with four samples a pixel, none at the centre; two of them, lit or not, reach 55.
    half = color.max(axis=2) >= 55
    assert overlap(covered, half) >= 0.99
    inside = covered & (reference["depth"] > 0)
    difference = np.abs(ours.astype(int) - color)[inside]
    assert difference.mean() <= 1.0
    assert np.median(difference) == 0.0
    assert np.median(np.abs(condition.raster.depth() - reference["depth"])[inside]) < 1e-3


def test_what_only_ambient_light_reaches(body: Body, speaking: np.ndarray) -> None:
    """Seen from behind, most of the body has the authors' darkest colour, known from their pictures."""
    condition = Condition(body, behind(CAMERAS["studio"]), "authors")
    picture = condition.render(speaking)
    covered = condition.raster.covered()
    colors, counts = np.unique(picture[covered], axis=0, return_counts=True)
    np.testing.assert_array_equal(colors[0], [85, 108, 113])
    assert counts.argmax() == 0
    assert not picture[~covered].any()


def smooth_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Angle-weighted vertex normals, the slow way."""
    corners = vertices[faces].astype(np.float64)  # (F, 3, 3)
    edges = np.roll(corners, -1, axis=1) - corners
    edges /= np.maximum(np.linalg.norm(edges, axis=2, keepdims=True), 1e-12)
    cosines = -np.einsum("fkc,fkc->fk", edges, np.roll(edges, 1, axis=1))
    unit = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    total = np.zeros((len(vertices), 3))
    for k in range(3):
        np.add.at(total, faces[:, k], unit * np.arccos(np.clip(cosines[:, k], -1, 1))[:, None])
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))


@pytest.mark.parametrize("name", ["studio", "from the side"])
def test_normals_and_paint_can_be_read_back(body: Body, speaking: np.ndarray, name: str) -> None:
    camera = CAMERAS[name]
    condition = Condition(body, camera, "normals")
    picture = condition.render(speaking).astype(np.float64)
    weights = condition._rasterizer.barycentrics()
    ys, xs = np.nonzero(condition.raster.covered())
    corners, share = body.faces[condition.raster.triangle[ys, xs]], weights[ys, xs][..., None]
    normals = (smooth_normals(speaking, body.faces)[corners] * share).sum(axis=1)
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True) @ camera.view[:3, :3].T
    paint = (body.paint[corners][..., None] * share).sum(axis=(1, 2))
    expected = np.stack(
        [127.5 + 127.5 * normals[:, 0], 127.5 + 127.5 * normals[:, 1], 0.75 * paint + 63.75 * normals[:, 2].clip(0)],
        axis=1,
    )
    difference = np.abs(picture[ys, xs] - expected)
    assert difference.mean() < 0.5
    assert np.quantile(difference, 0.999) < 3.0
    assert not picture[~condition.raster.covered()].any()
    assert len(np.unique(body.paint)) > 5


def test_without_paint_blue_is_the_normal(body: Body, speaking: np.ndarray) -> None:
    plain = Body(replace(body.model, paint=np.zeros_like(body.paint)), body.template.astype(np.float64))
    condition = Condition(plain, CAMERAS["studio"], "normals")
    picture = condition.render(speaking)[condition.raster.covered()].astype(np.float64)
    normal = np.concatenate([picture[:, :2] / 127.5 - 1.0, picture[:, 2:] / 255.0], axis=1)
    assert np.quantile(np.abs(np.linalg.norm(normal, axis=1) - 1.0), 0.98) < 0.02


@pytest.mark.parametrize("style", ["normals", "authors"])
def test_buffers_are_reused_without_traces(body: Body, speaking: np.ndarray, style: str) -> None:
    camera, rest = CAMERAS["studio"], body.template
    condition = Condition(body, camera, style)  # type: ignore[arg-type]
    out = np.full((512, 512, 3), 77, np.uint8)
    first = condition.render(rest).copy()
    assert condition.render(speaking, out) is out
    assert (first != out).any()
    np.testing.assert_array_equal(condition.render(rest, out), first)
    turned = look_at((0.3, 0.2, 1.5), (0.0, 0.2, 0.0), 512, 0.5)
    np.testing.assert_array_equal(
        condition.render(speaking, camera=turned),
        Condition(body, turned, style).render(speaking),  # type: ignore[arg-type]
    )
    assert not condition.render(np.full_like(rest, np.nan)).any()
    with pytest.raises(ValueError, match="out must be uint8"):
        condition.render(rest, np.zeros((256, 256, 3), np.uint8))


def test_unknown_style(body: Body) -> None:
    with pytest.raises(ValueError, match="style must be one of normals, authors, not 'wireframe'"):
        Condition(body, CAMERAS["studio"], "wireframe")  # type: ignore[arg-type]


def behind(camera: Camera) -> Camera:
    """The same camera, walked to the other side of the origin."""
    turn = np.diag([-1.0, 1.0, -1.0, 1.0])
    return replace(camera, view=camera.view @ turn)


def test_face_mask(body: Body, speaking: np.ndarray) -> None:
    camera = CAMERAS["studio"]
    condition = Condition(body, camera, "normals")
    condition.render(speaking)
    mask = condition.face_mask()
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert not mask[~condition.raster.covered()].any()
    marks = camera.project(body.landmarks(speaking))[:, :2].astype(int)
    assert mask[marks[:, 1], marks[:, 0]].mean() > 0.95
    span, eyes = np.ptp(np.nonzero(mask)[0]), np.linalg.norm(marks[19:25].mean(axis=0) - marks[25:31].mean(axis=0))
    assert 2.0 * eyes < span < 3.6 * eyes  # chin to hairline: about three times the distance of the eyes
    shown = condition.render(speaking, camera=behind(camera))
    assert shown.any()
    assert condition.face_mask().sum() < 0.01 * mask.sum()


def test_face_region_is_symmetric_and_only_face(body: Body) -> None:
    region = face_region(body)
    centres = body.template[body.faces[region]].mean(axis=1)
    assert 1000 < region.sum() < 0.4 * len(region)
    assert abs(np.median(centres[:, 0])) < 0.003
    follows = body.model.weights[np.unique(body.faces[region])].argmax(axis=1)
    assert set(follows) <= {joint_index(n) for n in ("head", "jaw", "left_eye", "right_eye", "neck")}


def test_keypoints(body: Body, speaking: np.ndarray) -> None:
    pose = np.zeros(POSE_DIMS, np.float32)
    joints = body.joints(pose, np.zeros(EXPRESSION_DIMS, np.float32), np.zeros(3, np.float32))
    points = keypoints(body, CAMERAS["studio"], body.template, joints)
    assert points.face.shape == (51, 2)
    assert points.left_hand.shape == points.right_hand.shape == (16, 2)
    # The left hand of somebody who faces the camera is on the picture's right.
    assert (
        points.left_hand[:, 0].min() > points.face[:, 0].max() > points.face[:, 0].min() > points.right_hand[:, 0].max()
    )
