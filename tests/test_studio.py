"""The studio: MakeHuman's files read, the person moves with the stand-in, and mesh and picture coincide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.body import BodyModel
from engine.condition import Condition
from engine.errors import InputError
from engine.skeleton import joint_slice
from engine.standin import standin_path

makehuman = pytest.importorskip("engine.training.studio.makehuman", reason="needs the extra [train]")
person = pytest.importorskip("engine.training.studio.person", reason="needs the extra [train]")

from engine.training.studio.decimate import collapse  # noqa: E402
from engine.training.studio.lights import news_studio  # noqa: E402
from engine.training.studio.renderer import Renderer  # noqa: E402
from engine.training.studio.scene import studio_camera  # noqa: E402
from engine.training.studio.standin_mesh import PEOPLE  # noqa: E402


@pytest.fixture(scope="module")
def noah(shared: Path) -> object:
    return person.Person(shared / "makehuman-cc0", person.ANCHORS["noah"])


def anchor_pose() -> np.ndarray:
    pose = np.zeros(165, np.float32)
    pose[joint_slice("left_shoulder")], pose[joint_slice("right_shoulder")] = (0, 0, -1.1), (0, 0, 1.1)
    pose[joint_slice("left_elbow")], pose[joint_slice("right_elbow")] = (0, -1.4, 0), (0, 1.4, 0)
    return pose


def test_a_quad_becomes_two_triangles(tmp_path: Path) -> None:
    (tmp_path / "quad.obj").write_text(
        "g body\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 1\nf 1/1 2/1 3/2 4/2\n"
    )
    mesh = makehuman.read_obj(tmp_path / "quad.obj")
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.uv_faces.tolist() == [[0, 0, 1], [0, 1, 1]]
    assert mesh.vertices[2].tolist() == [0.1, 0.1, 0]  # decimetres to metres


@pytest.mark.parametrize("text", ["v a b c\nf 1 2 3", "v 0 0 0\n", ""])
def test_a_broken_mesh_is_one_clear_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "broken.obj").write_text(text)
    with pytest.raises(InputError, match=r"broken\.obj"):
        makehuman.read_obj(tmp_path / "broken.obj")


def test_collapses_keep_a_closed_surface_closed() -> None:
    steps = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = [(r * np.sin(p) * np.cos(t), np.cos(p), np.sin(p) * np.sin(t)) for r in (1.0,) for p in np.linspace(0.2, 2.9, 16) for t in steps]  # fmt: skip
    vertices = np.array([*ring, (0, 1.0, 0), (0, -1.0, 0)])
    faces = []
    for row in range(15):
        for k in range(24):
            a, b = row * 24 + k, row * 24 + (k + 1) % 24
            faces += [[a, b, a + 24], [b, b + 24, a + 24]]
    top, bottom = len(ring), len(ring) + 1
    faces += [[top, (k + 1) % 24, k] for k in range(24)]
    faces += [[bottom, 15 * 24 + k, 15 * 24 + (k + 1) % 24] for k in range(24)]
    thin = collapse(vertices, np.array(faces), np.ones(len(vertices)), 200)
    assert len(np.unique(thin)) == 200
    assert len(thin) == 2 * 200 - 4  # Euler: a closed surface without handles
    edges = {tuple(sorted((int(f[i]), int(f[(i + 1) % 3])))) for f in thin for i in range(3)}
    assert len(edges) == 3 * len(thin) // 2


def test_mesh_and_person_coincide(noah: object) -> None:
    """The bare mesh lies within the dressed person, and the face's outline within a few pixels of the skin's."""
    camera = studio_camera(256)
    with np.load(Path(__file__).parents[1] / "engine" / "data" / "standin.npz") as packed:
        betas = packed["identity_betas"][PEOPLE.index(person.ANCHORS["noah"].people)]
    body = BodyModel.load(standin_path()).shaped(betas)
    pose, expression, transl = anchor_pose(), np.zeros(100, np.float32), np.array([0.02, 0, 0], np.float32)
    mesh = Condition(body, camera).render(body.vertices(pose, expression, transl)).max(2) > 0
    parts = noah.vertices(pose, expression, transl)  # type: ignore[attr-defined]
    _, alpha = Renderer(camera, noah.parts, news_studio()).render(parts)  # type: ignore[attr-defined]
    covered = alpha > 127
    assert covered.sum() > 0.1 * covered.size
    assert (mesh & ~covered).sum() < 0.01 * mesh.sum()
    skin = parts[0]
    for side, joint in (("left", 20), ("right", 21)):
        wrist = body.joints(pose, expression, transl)[joint]
        nearest = np.linalg.norm(skin - wrist, axis=1).min()
        assert nearest < 0.04, side


def test_the_studio_sees_both_hands(noah: object) -> None:
    body = BodyModel.load(standin_path()).shaped()
    joints = body.joints(anchor_pose(), np.zeros(100, np.float32), np.zeros(3, np.float32))
    seen = studio_camera(512).project(joints[[15, 20, 21]])
    assert ((seen[:, :2] > 0) & (seen[:, :2] < 512)).all()
