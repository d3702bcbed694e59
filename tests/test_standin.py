"""The stand-in body: the SMPL-X format, a face that moves, and that it is what its maker makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.body import Body, BodyModel
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS, joint_slice
from engine.standin import BETAS, EXPRESSION_NAMES, FACES, FULL_ACTIVATION, VERTICES, expression_index, standin_path

MOUTH = slice(31, 51)  # of the 51 landmarks
UPPER_LIP, LOWER_LIP = 45, 49  # the middle of the inner lips


@pytest.fixture(scope="module")
def body() -> Body:
    return BodyModel.load(standin_path()).shaped()


def posed(body: Body, pose: dict[str, tuple[float, float, float]] | None = None, **units: float) -> np.ndarray:
    flat, expression = np.zeros(POSE_DIMS, np.float32), np.zeros(EXPRESSION_DIMS, np.float32)
    for joint, turn in (pose or {}).items():
        flat[joint_slice(joint)] = turn
    for name, amount in units.items():
        expression[expression_index(name)] = amount * FULL_ACTIVATION
    return np.array(body.vertices(flat, expression, np.zeros(3, np.float32)))


def test_it_has_the_shape_of_smplx() -> None:
    with np.load(standin_path()) as file:
        shapes = {key: file[key].shape for key in file.files}
    assert shapes["v_template"] == (VERTICES, 3) == (10475, 3)
    assert shapes["f"] == (FACES, 3) == (20908, 3)
    assert shapes["shapedirs"] == (VERTICES, 3, BETAS + EXPRESSION_DIMS)
    assert shapes["posedirs"] == (VERTICES, 3, 486)
    assert shapes["J_regressor"] == (55, VERTICES)
    assert shapes["dynamic_lmk_faces_idx"] == (79, 17)


def test_the_unmodified_smplx_package_loads_it() -> None:
    smplx = pytest.importorskip("smplx", reason="needs smplx")
    model = smplx.SMPLX(
        str(standin_path()), num_betas=BETAS, num_expression_coeffs=EXPRESSION_DIMS, use_pca=False, flat_hand_mean=True
    )
    output = model()
    assert tuple(output.vertices.shape) == (1, VERTICES, 3)


def test_every_vertex_is_used_and_hangs_on_joints(body: Body) -> None:
    assert len(np.unique(body.faces)) >= VERTICES - 2  # faces were taken out deep in the throat
    with np.load(standin_path()) as file:
        assert np.allclose(file["weights"].sum(1), 1, atol=1e-5)
        assert np.allclose(file["J_regressor"].sum(1), 1, atol=1e-5)


def test_the_person_stands_upright_and_faces_the_camera(body: Body) -> None:
    rest = posed(body)
    left, right = body.landmarks(rest)[25:31].mean(0), body.landmarks(rest)[19:25].mean(0)
    assert 1.5 < np.ptp(rest[:, 1]) < 2.0  # metres tall
    assert left[0] > 0 > right[0]  # the person's left is +X: iBUG counts the right eye first
    assert left[2] > rest[:, 2].mean()


def test_the_mouth_opens(body: Body) -> None:
    def gap(vertices: np.ndarray) -> float:
        marks = body.landmarks(vertices)
        return float(marks[UPPER_LIP, 1] - marks[LOWER_LIP, 1])

    closed = gap(posed(body))
    assert gap(posed(body, {"jaw": (0.3, 0, 0)})) > closed + 0.008
    assert gap(posed(body, mouth_open=1.0)) > closed + 0.008


@pytest.mark.parametrize("name", EXPRESSION_NAMES)
def test_every_expression_moves_the_face_only(name: str, body: Body) -> None:
    moved = np.linalg.norm(posed(body, **{name: 1.0}) - posed(body), axis=1)
    assert 0.002 < moved.max() < 0.08
    assert moved[posed(body)[:, 1] < 0.0].max() < 1e-6  # nothing below the shoulders


def test_fingers_curl_one_by_one(body: Body) -> None:
    rest = posed(body)
    for side, sign in (("left", -1.0), ("right", 1.0)):
        for finger in ("index", "middle", "ring", "pinky"):
            bent = posed(body, {f"{side}_{finger}{k}": (0, 0, sign * 0.8) for k in (1, 2, 3)})
            moved = np.linalg.norm(bent - rest, axis=1) > 0.01
            assert 100 < moved.sum() < 800
            assert bent[moved, 1].mean() < rest[moved, 1].mean() - 0.01  # the palm faces down


@pytest.mark.slow
def test_it_is_what_its_maker_makes(shared: Path, tmp_path: Path) -> None:
    make = pytest.importorskip("engine.training.studio.standin_mesh", reason="needs the extra [train]")
    made = tmp_path / "standin.npz"
    make.make_standin(shared / "makehuman-cc0", made)
    kept = Path(__file__).parents[1] / "engine" / "data" / "standin.npz"
    with np.load(made) as new, np.load(kept) as old:
        assert set(new.files) == set(old.files)
        assert np.array_equal(new["faces"], old["faces"])
        assert np.abs(new["v_template"] - old["v_template"]).max() < 1e-6
        assert np.abs(new["landmark_bary"] - old["landmark_bary"]).max() < 1e-5
