"""The live body against the unmodified `smplx` package, and what a bad model file gets told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.body import BodyModel
from engine.errors import InputError
from engine.skeleton import EXPRESSION_DIMS, JOINTS, POSE_DIMS
from engine.standin import standin_path
from tests import smplx_file

TOLERANCE = 1e-5  # metres


@pytest.fixture(scope="module")
def random_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smplx_file.write(
        tmp_path_factory.mktemp("smplx") / "SMPLX_NEUTRAL.npz",
        smplx_file.random_arrays(),
    )


@pytest.fixture(scope="module", params=["random", "stand-in", "user"])
def model_path(request: pytest.FixtureRequest) -> Path:
    if request.param == "random":
        path: Path = request.getfixturevalue("random_file")
        return path
    if request.param == "stand-in":
        return standin_path()
    if "LIVEANCHOR_SMPLX" not in os.environ:
        pytest.skip("no licensed model: set LIVEANCHOR_SMPLX to a SMPLX_*.npz to test it")
    return Path(os.environ["LIVEANCHOR_SMPLX"])


def samples(
    count: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Poses far wilder than any clip, one of them the rest pose."""
    rng = np.random.default_rng(7)
    for i in range(count):
        scale = 0.0 if i == 0 else 1.0
        yield (
            (rng.normal(0, 0.6, POSE_DIMS) * scale).astype(np.float32),
            (rng.normal(0, 1.5, EXPRESSION_DIMS) * scale).astype(np.float32),
            rng.normal(0, 1.0, 300).astype(np.float32),
            rng.normal(0, 1.0, 3).astype(np.float32),
        )


def reference(path: Path) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """(vertices, joints with landmarks) of the `smplx` package for pose, expression, betas, transl."""
    torch = pytest.importorskip("torch", reason="the reference needs torch")
    smplx = pytest.importorskip("smplx", reason="the reference is the smplx package")
    model = smplx.SMPLX(
        str(path),
        flat_hand_mean=True,
        use_pca=False,
        num_betas=300,
        num_expression_coeffs=EXPRESSION_DIMS,
    )

    def call(
        pose: np.ndarray, expression: np.ndarray, betas: np.ndarray, transl: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        p = torch.from_numpy(pose)[None]
        with torch.no_grad():
            out = model(
                betas=torch.from_numpy(betas)[None], expression=torch.from_numpy(expression)[None],
                transl=torch.from_numpy(transl)[None], global_orient=p[:, 0:3], body_pose=p[:, 3:66],
                jaw_pose=p[:, 66:69], leye_pose=p[:, 69:72], reye_pose=p[:, 72:75], left_hand_pose=p[:, 75:120],
                right_hand_pose=p[:, 120:165],
            )  # fmt: skip
        return out.vertices[0].numpy(), out.joints[0].numpy()

    return call


def test_equal_to_smplx(model_path: Path) -> None:
    model = BodyModel.load(model_path)
    smplx_package = reference(model_path)
    for pose, expression, betas, transl in samples(5):
        body = model.shaped(betas)
        vertices, joints = smplx_package(pose, expression, betas, transl)
        ours = body.vertices(pose, expression, transl)
        assert np.abs(ours - vertices).max() < TOLERANCE
        assert np.abs(body.joints(pose, expression, transl) - joints[:JOINTS]).max() < TOLERANCE
        # The package lists 21 picked vertices after its joints, then the landmarks.
        assert np.abs(body.landmarks(ours) - joints[JOINTS + 21 :][:51]).max() < TOLERANCE


def test_out_is_filled_and_repeatable(random_file: Path) -> None:
    body = BodyModel.load(random_file).shaped()
    out = np.full_like(body.template, np.nan)
    (pose, expression, _, transl), (other, other_expression, _, _) = list(samples(3))[1:]
    assert body.vertices(pose, expression, transl, out) is out
    first = out.copy()
    body.vertices(other, other_expression, transl, out)
    assert np.abs(out - first).max() > 0.01
    np.testing.assert_array_equal(body.vertices(pose, expression, transl, out), first)


def test_shape_and_expression_lengths(random_file: Path) -> None:
    model = BodyModel.load(random_file)
    betas = np.arange(10, dtype=np.float32)
    np.testing.assert_array_equal(model.shaped(betas).template, model.shaped(np.pad(betas, (0, 290))).template)
    body, pose, transl = (
        model.shaped(),
        np.zeros(POSE_DIMS, np.float32),
        np.zeros(3, np.float32),
    )
    few = np.ones(10, np.float32)
    padded = np.pad(few, (0, 90))
    np.testing.assert_array_equal(body.vertices(pose, few, transl), body.vertices(pose, padded, transl))
    with pytest.raises(InputError, match="betas: expected at most 300"):
        model.shaped(np.ones(301))
    with pytest.raises(InputError, match="betas: expected finite"):
        model.shaped(np.array([np.nan]))
    with pytest.raises(ValueError, match=r"pose \(165,\)"):
        body.vertices(pose[:63], few, transl)
    with pytest.raises(ValueError, match="out must be float32"):
        body.vertices(pose, few, transl, np.empty((3, 3), np.float32))


def test_old_files_with_ten_expressions(tmp_path: Path) -> None:
    arrays = smplx_file.random_arrays(smplx_file.SMALL)
    arrays["shapedirs"] = np.ascontiguousarray(arrays["shapedirs"][:, :, :20])
    model = BodyModel.load(smplx_file.write(tmp_path / "old.npz", arrays))
    pose, transl = np.zeros(POSE_DIMS, np.float32), np.zeros(3, np.float32)
    moved = model.shaped().vertices(pose, np.eye(1, 100, 3, dtype=np.float32)[0], transl)
    offset = arrays["shapedirs"][:, :, 13]
    np.testing.assert_allclose(moved, arrays["v_template"] + offset, atol=1e-6)


def test_paint_is_optional(tmp_path: Path, random_file: Path) -> None:
    assert not BodyModel.load(random_file).paint.any()
    arrays = smplx_file.random_arrays(smplx_file.SMALL)
    arrays["paint"] = np.arange(smplx_file.SMALL).astype(np.uint8)
    np.testing.assert_array_equal(
        BodyModel.load(smplx_file.write(tmp_path / "painted.npz", arrays)).paint,
        arrays["paint"],
    )


def broken(key: str, change: Callable[[np.ndarray], np.ndarray] | None) -> dict[str, np.ndarray]:
    arrays = smplx_file.random_arrays(smplx_file.SMALL)
    if change is None:
        del arrays[key]
    else:
        arrays[key] = change(arrays[key])
    return arrays


@pytest.mark.parametrize(
    ("key", "change", "says"),
    [
        (
            "weights",
            None,
            r"weights: expected an array of shape \(100, 55\), got nothing",
        ),
        (
            "v_template",
            lambda a: a[:, :2],
            r"v_template: expected shape \(n, 3\), got shape \(100, 2\)",
        ),
        (
            "posedirs",
            lambda a: a[:, :, :207],
            r"posedirs: expected shape \(100, 3, 486\), got shape \(100, 3, 207\)",
        ),
        (
            "shapedirs",
            lambda a: a[:, :, :16],
            "shapedirs: expected 400 columns .* got 16 columns",
        ),
        (
            "f",
            lambda a: a + np.uint32(9),
            "f: expected indices from 0 to 99, got 9 to 10",
        ),
        (
            "J_regressor",
            lambda a: a * np.nan,
            "J_regressor: expected finite numbers, got NaN",
        ),
        (
            "kintree_table",
            lambda a: a[:, ::-1].copy(),
            "kintree_table: expected the parents of SMPL-X",
        ),
        ("lmk_faces_idx", lambda a: a + 0.5, "lmk_faces_idx: expected whole numbers"),
        (
            "v_template",
            lambda a: np.array([{}], dtype=object),
            "v_template: expected an array .* unreadable",
        ),
        (
            "hands_meanl",
            lambda a: a.astype(str),
            "hands_meanl: expected numbers, got <U",
        ),
    ],
)
def test_bad_files_say_what_is_wrong(
    tmp_path: Path,
    key: str,
    change: Callable[[np.ndarray], np.ndarray] | None,
    says: str,
) -> None:
    path = smplx_file.write(tmp_path / "bad.npz", broken(key, change))
    with pytest.raises(InputError, match=says) as caught:
        BodyModel.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"plainly no archive"])
def test_no_model_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.npz"
    with pytest.raises(InputError, match="no such file"):
        BodyModel.load(path)
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected an SMPL-X model file"):
        BodyModel.load(path)
