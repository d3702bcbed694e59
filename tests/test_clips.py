"""Every clip format but BVH: synthetic files with known motion, the real clip, and files that are not right."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from engine.clips import HandSpace, files, read_clip, write_clip
from engine.clips.convention import PELVIS
from engine.errors import InputError
from engine.pose import PoseClip

rng = np.random.default_rng(7)
FRAMES = 5
POSES = rng.normal(0, 0.3, (FRAMES, 165)).astype(np.float32)
EXPRESSIONS = rng.normal(size=(FRAMES, 100)).astype(np.float32)
TRANSL = rng.normal(size=(FRAMES, 3)).astype(np.float32)
BETAS = rng.normal(size=16).astype(np.float32)


def beat2_arrays(**changes: object) -> dict[str, np.ndarray]:
    arrays = {"poses": POSES, "expressions": EXPRESSIONS.astype("f8"), "trans": TRANSL.astype("f8"), "betas": BETAS}
    arrays["mocap_frame_rate"] = np.array(30)
    arrays.update({k: np.asarray(v) for k, v in changes.items() if v is not None})
    return {k: v for k, v in arrays.items() if k not in changes or changes[k] is not None}


def save_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def save_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def body_points(root: np.ndarray, transl: np.ndarray, pelvis: np.ndarray = PELVIS) -> np.ndarray:
    """Where three points of a rigid body come to lie: an oracle for turning root and translation together."""
    points = np.array([[0.1, 0.2, 0.3], [-0.4, 0.5, 0.0], [0.0, -0.6, 0.2]])
    turns = Rotation.from_rotvec(root.astype(np.float64)).as_matrix()  # (T, 3, 3)
    return np.einsum("tij,pj->tpi", turns, points) + pelvis + transl[:, None]


def same_turns(a: np.ndarray, b: np.ndarray) -> None:
    ours, theirs = (Rotation.from_rotvec(x.reshape(-1, 3)).as_matrix() for x in (a, b))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


# TalkSHOW


def talkshow_array(root: np.ndarray) -> np.ndarray:
    return np.concatenate([POSES[:, 66:75], root, POSES[:, 3:66], POSES[:, 75:], EXPRESSIONS], 1)


def test_talkshow_stands_up_and_gets_its_mean_hand(tmp_path: Path) -> None:
    root = np.tile(np.array([[np.pi, 0, 0]], np.float32), (FRAMES, 1))  # upright before a camera with Y down
    clip = read_clip(save_npy(tmp_path / "a.npy", talkshow_array(root)))
    assert clip.fps == 30.0 and len(clip) == FRAMES and not clip.transl.any() and clip.betas.shape == (0,)
    same_turns(clip.poses[:, :3], np.zeros((FRAMES, 3)))
    np.testing.assert_array_equal(clip.poses[:, 3:75], POSES[:, 3:75])
    np.testing.assert_array_equal(clip.expressions, EXPRESSIONS)
    relaxed = HandSpace.relaxed()
    np.testing.assert_allclose(clip.poses[:, 75:120], POSES[:, 75:120] + relaxed.mean_left, atol=1e-6)
    np.testing.assert_allclose(clip.poses[:, 120:], POSES[:, 120:] + relaxed.mean_right, atol=1e-6)
    batch = read_clip(save_npy(tmp_path / "b.npy", talkshow_array(root)[None]))
    np.testing.assert_array_equal(batch.poses, clip.poses)


def test_talkshow_turns_the_world_not_the_body(tmp_path: Path) -> None:
    clip = read_clip(save_npy(tmp_path / "a.npy", talkshow_array(POSES[:, :3])))
    expected = Rotation.from_rotvec([np.pi, 0, 0]) * Rotation.from_rotvec(POSES[:, :3])
    same_turns(clip.poses[:, :3], expected.as_rotvec())


# SHOW


def show_dict(dims: int = 12) -> dict[str, np.ndarray]:
    hands = rng.normal(size=(2, FRAMES, dims)).astype(np.float32)
    return {
        "width": np.float32(640), "camera_transl": np.ones(3, np.float32), "focal_length": np.float32(5000),
        "global_orient": POSES[:, None, :3], "body_pose_axis": POSES[:, 3:66], "jaw_pose": POSES[:, 66:69],
        "leye_pose": POSES[:, 69:72], "reye_pose": POSES[:, 72:75], "expression": EXPRESSIONS, "transl": TRANSL,
        "betas": BETAS[None], "left_hand_pose": hands[0], "right_hand_pose": hands[1],
    }  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_show_of_numpy_arrays(tmp_path: Path, protocol: int) -> None:
    path, data = tmp_path / "a.pkl", show_dict()
    path.write_bytes(pickle.dumps(data, protocol))
    clip = read_clip(path)
    np.testing.assert_array_equal(clip.poses[:, 3:75], POSES[:, 3:75])
    np.testing.assert_allclose(clip.poses[:, 75:120], np.tile(HandSpace.relaxed().mean_left, (FRAMES, 1)), atol=1e-6)
    np.testing.assert_array_equal(clip.betas, BETAS)
    flipped = body_points(POSES[:, :3], TRANSL) * (1, -1, -1)  # half a turn about X
    np.testing.assert_allclose(body_points(clip.poses[:, :3], clip.transl), flipped, atol=1e-5)
    path.write_bytes(pickle.dumps([data], protocol))
    np.testing.assert_array_equal(read_clip(path).poses, clip.poses)


def test_show_hands_by_the_users_hand_space(tmp_path: Path) -> None:
    means, components = rng.normal(0, 0.2, (2, 45)).astype("f4"), rng.normal(0, 0.2, (2, 45, 45)).astype("f4")
    model = {"hands_meanl": means[0], "hands_meanr": means[1], "v_template": np.zeros(3)}
    model |= {"hands_componentsl": components[0], "hands_componentsr": components[1].astype("f8")}
    space = HandSpace.load(save_npz(tmp_path / "SMPLX_NEUTRAL.npz", **model))
    data = show_dict()
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(data))
    clip = read_clip(tmp_path / "a.pkl", hands=space)
    expected = means[1] + data["right_hand_pose"] @ components[1][:12]
    np.testing.assert_allclose(clip.poses[:, 120:], expected, atol=1e-5)
    with pytest.raises(InputError, match="hands_meanl"):
        HandSpace.load(save_npz(tmp_path / "b.npz", v_template=np.zeros(3)))


def test_relaxed_hands_are_mirrored_and_curled_towards_the_palm() -> None:
    hands = HandSpace.relaxed()
    left, right = hands.mean_left.reshape(15, 3), hands.mean_right.reshape(15, 3)
    np.testing.assert_array_equal(right, left * (1, -1, -1))
    curls = np.degrees(-left[:12, 2])
    assert (curls >= 14.9).all() and (curls <= 35).all()
    # the finger tip of the left hand, pointing to +X, goes down and back towards the palm
    tip = Rotation.from_rotvec(left[3]) * Rotation.from_rotvec(left[4]) * Rotation.from_rotvec(left[5])
    x, y, _ = tip.apply([1, 0, 0])
    assert y < -0.5 and x > 0


# BEAT2, and our own


def test_beat2_converts_types_only(tmp_path: Path) -> None:
    clip = read_clip(save_npz(tmp_path / "a.npz", **beat2_arrays()))
    for got, want in ((clip.poses, POSES), (clip.expressions, EXPRESSIONS), (clip.transl, TRANSL), (clip.betas, BETAS)):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, want)
    assert clip.fps == 30.0 and clip.source.endswith("a.npz")


def test_written_clips_come_back(tmp_path: Path) -> None:
    for betas in (BETAS, np.zeros(0, np.float32)):
        clip = PoseClip(29.97, POSES, EXPRESSIONS, TRANSL, betas)
        write_clip(tmp_path / "a.npz", clip)
        back = read_clip(tmp_path / "a.npz")
        np.testing.assert_array_equal(back.poses, clip.poses)
        np.testing.assert_array_equal(back.expressions, clip.expressions)
        np.testing.assert_array_equal(back.transl, clip.transl)
        assert back.fps == clip.fps and len(back.betas) == (300 if len(betas) else 0)
        np.testing.assert_array_equal(back.betas[: len(betas)], betas)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a place to write to"):
        write_clip(tmp_path / "missing" / "a.npz", PoseClip(30.0, POSES, EXPRESSIONS, TRANSL))
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match="a place to write to"):
        write_clip(tmp_path / "folder.npz", PoseClip(30.0, POSES, EXPRESSIONS, TRANSL))
    assert [p.name for p in tmp_path.iterdir()] == ["folder.npz"]


def test_real_beat2_clip(shared: Path) -> None:
    clip = read_clip(shared / "data/beat2/2_scott_0_1_1.npz")
    assert len(clip) == 1906 and clip.fps == 30.0 and clip.betas.shape == (300,)
    turns = Rotation.from_rotvec(clip.poses[:, :3])
    assert (turns.apply([0, 1, 0])[:, 1] > 0.8).all()  # upright
    assert turns.apply([0, 0, 1])[:, 2].mean() > 0.8  # facing +Z, mostly
    curl = np.degrees(-clip.poses.reshape(-1, 55, 3)[:, [26, 27, 29, 30, 35, 36], 2])  # what `beat2.py` says of hands
    assert curl.min() > -1.5 and curl.max() > 40


# AMASS


def z_up(root: np.ndarray, transl: np.ndarray, pelvis: np.ndarray = PELVIS) -> tuple[np.ndarray, np.ndarray]:
    """The same motion in a world with Z up."""
    turn = Rotation.from_rotvec([np.pi / 2, 0, 0])
    return (turn * Rotation.from_rotvec(root)).as_rotvec(), turn.apply(transl + PELVIS) - pelvis


def facing_clip() -> tuple[np.ndarray, np.ndarray]:
    """Root and translation of a person who starts over the origin, facing +Z."""
    root = np.zeros((FRAMES, 3))
    root[:, 0] = np.linspace(0.1, 0.3, FRAMES)
    root[1:, 1] = 0.4
    transl = TRANSL.astype(np.float64)
    transl[:, [0, 2]] -= (transl[0] + PELVIS)[[0, 2]]
    return root, transl


@pytest.mark.parametrize("layout", ["whole", "parts", "smplh"])
@pytest.mark.parametrize("rate", ["mocap_frame_rate", "mocap_framerate"])
@pytest.mark.parametrize("heading", [0.0, 2.0, -1.3])
def test_amass(tmp_path: Path, layout: str, rate: str, heading: float) -> None:
    root, transl = facing_clip()
    turn = Rotation.from_rotvec([0, heading, 0])
    turned = (turn * Rotation.from_rotvec(root)).as_rotvec()
    moved = turn.apply(transl + PELVIS) - PELVIS + (3.0, 0.0, -2.0)
    pelvis = np.array([-0.002, -0.223, 0.028]) if layout == "smplh" else PELVIS
    theirs, trans = z_up(turned, moved, pelvis)
    arrays = {"trans": trans, "betas": BETAS, rate: np.array(120.0), "gender": np.array("neutral")}
    if layout == "whole":
        arrays["poses"] = np.concatenate([theirs, POSES[:, 3:]], 1)
    elif layout == "smplh":
        arrays["poses"] = np.concatenate([theirs, POSES[:, 3:66], POSES[:, 75:]], 1)
    else:
        arrays |= {"root_orient": theirs, "pose_body": POSES[:, 3:66], "pose_jaw": POSES[:, 66:69]}
        arrays |= {"pose_eye": POSES[:, 69:75], "pose_hand": POSES[:, 75:]}
    clip = read_clip(save_npz(tmp_path / "a.npz", **arrays))
    assert clip.fps == 120.0 and not clip.expressions.any()
    same_turns(clip.poses[:, :3], root)
    np.testing.assert_allclose(clip.transl, transl, atol=1e-5)
    np.testing.assert_array_equal(clip.poses[:, 3:66], POSES[:, 3:66])
    np.testing.assert_array_equal(clip.poses[:, 75:], POSES[:, 75:])
    np.testing.assert_array_equal(clip.poses[:, 66:75], 0 * POSES[:, 66:75] if layout == "smplh" else POSES[:, 66:75])
    assert len(clip.betas) == (0 if layout == "smplh" else 16)


def test_amass_ignores_pickled_arrays_that_nobody_needs(tmp_path: Path) -> None:
    arrays = {"poses": POSES, "trans": TRANSL, "mocap_frame_rate": np.array(60)}
    arrays["labels_obs"] = np.array([{"a": 1}, None], dtype=object)
    assert len(read_clip(save_npz(tmp_path / "a.npz", **arrays))) == FRAMES


# Motion-X


@pytest.mark.parametrize("world", ["y up", "z up", "camera"])
def test_motionx_finds_its_up(tmp_path: Path, world: str) -> None:
    root, transl = facing_clip()
    if world == "z up":
        theirs, trans = z_up(root, transl)
    elif world == "camera":
        turn = Rotation.from_rotvec([np.pi, 0, 0])
        theirs, trans = (turn * Rotation.from_rotvec(root)).as_rotvec(), turn.apply(transl + PELVIS) - PELVIS
    else:
        theirs, trans = root, transl
    rows = np.zeros((FRAMES, 322))
    rows[:, :3], rows[:, 3:66], rows[:, 66:156], rows[:, 156:159] = (
        theirs,
        POSES[:, 3:66],
        POSES[:, 75:],
        POSES[:, 66:69],
    )
    rows[:, 159:209], rows[:, 309:312], rows[:, 312:322] = EXPRESSIONS[:, :50], trans, BETAS[:10]
    clip = read_clip(save_npy(tmp_path / "a.npy", rows))
    same_turns(clip.poses[:, :3], root)
    np.testing.assert_allclose(clip.transl, transl, atol=1e-5)
    np.testing.assert_array_equal(clip.poses[:, 3:69], POSES[:, 3:69])
    np.testing.assert_array_equal(clip.poses[:, 75:], POSES[:, 75:])
    np.testing.assert_array_equal(clip.expressions, np.pad(EXPRESSIONS[:, :50], ((0, 0), (0, 50))))
    np.testing.assert_array_equal(clip.betas, BETAS[:10])


# What is not right


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[2, 1] = np.nan
    return array


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"poses": POSES[:, :150]}, "poses", r"\(T, 165\)"),
        ({"poses": with_nan(POSES)}, "poses", "finite"),
        ({"poses": POSES * 180}, "poses", "radians"),
        ({"poses": POSES[:0], "expressions": EXPRESSIONS[:0], "trans": TRANSL[:0]}, "poses", "T > 0"),
        ({"poses": POSES.astype(str)}, "poses", "numbers"),
        ({"poses": np.array([{}] * 5)}, "poses", "array of numbers"),
        ({"expressions": EXPRESSIONS[:3]}, "expressions", "100"),
        ({"expressions": with_nan(EXPRESSIONS)}, "expressions", "finite"),
        ({"trans": TRANSL[:, :2]}, "transl", r"\(5, 3\)"),
        ({"trans": TRANSL.astype("f8") * 1e300}, "transl", "metres"),
        ({"trans": None}, "trans", "missing"),
        ({"betas": np.zeros(301)}, "betas", "at most 300"),
        ({"betas": np.full(10, np.inf)}, "betas", "finite"),
        ({"mocap_frame_rate": None}, "mocap_frame_rate", "missing"),
        ({"mocap_frame_rate": 0}, "mocap_frame_rate", "1 to 1000"),
        ({"mocap_frame_rate": -30}, "mocap_frame_rate", "1 to 1000"),
        ({"mocap_frame_rate": np.nan}, "mocap_frame_rate", "1 to 1000"),
        ({"mocap_frame_rate": [30, 30]}, "mocap_frame_rate", "one number"),
        ({"mocap_frame_rate": "thirty"}, "mocap_frame_rate", "one number"),
    ],
)
def test_wrong_beat2_files_say_what_is_wrong(tmp_path: Path, changes: dict, field: str, expected: str) -> None:
    path = save_npz(tmp_path / "clip.npz", **beat2_arrays(**changes))
    with pytest.raises(InputError, match=expected) as caught:
        read_clip(path)
    assert caught.value.field == field and "clip.npz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.pkl", "a.bvh", "a.txt", "a"])
def test_empty_missing_and_foreign_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match="no such file"):
        read_clip(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        read_clip(path)
    path.write_bytes(b"\x00\x01 this is no clip \xff")
    with pytest.raises(InputError):
        read_clip(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="folder"):
        read_clip(path)


def test_wrong_shapes_and_choices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="265"):
        read_clip(save_npy(tmp_path / "a.npy", np.zeros((4, 99))))
    with pytest.raises(InputError, match="265"):
        read_clip(save_npy(tmp_path / "a.npy", np.zeros((2, 4, 265))))
    with pytest.raises(InputError, match="BEAT2"):
        read_clip(save_npz(tmp_path / "a.npz", x=np.zeros(3)))
    with pytest.raises(InputError, match="expressions: expected an array, got nothing"):
        read_clip(
            save_npz(tmp_path / "a.npz", poses=np.zeros((4, 72)), trans=TRANSL, mocap_framerate=np.array(60)),
            format="beat2",
        )
    with pytest.raises(InputError, match="one of"):
        read_clip(tmp_path / "a.npz", format="fbx")
    with pytest.raises(InputError, match="a BVH file"):
        read_clip(save_npz(tmp_path / "a.npz", **beat2_arrays()), bone_map=tmp_path / "map.toml")


def test_zip_bombs_are_refused_before_they_unfold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 165)})
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("expressions", "trans", "mocap_frame_rate"):
            archive.writestr(f"{name}.npy", b"")
        archive.writestr("poses.npy", header.getvalue() + b"\0" * 1000)
    with pytest.raises(InputError, match="bytes for shape"):
        read_clip(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("expressions.npy", b"")
        archive.writestr("poses.npy", bytes(3 << 20))  # 3 MiB in a file of 3 kB, and the limit lowered to match
    monkeypatch.setattr(files, "LIMIT", 2 << 20)
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match="at most 2 MiB, got 3 MiB"):
        read_clip(path)


# Whatever is broken: InputError or a valid clip


def _seed_files() -> dict[str, bytes]:
    npz, npy = io.BytesIO(), io.BytesIO()
    np.savez_compressed(npz, **beat2_arrays())  # type: ignore[arg-type]
    np.save(npy, talkshow_array(POSES[:, :3])[:2])
    return {"a.npz": npz.getvalue(), "a.npy": npy.getvalue(), "a.pkl": pickle.dumps(show_dict())}


SEEDS = _seed_files()


@pytest.mark.parametrize("name", list(SEEDS))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_raise_nothing_but_input_errors(tmp_path: Path, name: str, data: st.DataObject) -> None:
    content = bytearray(SEEDS[name])
    edge = st.one_of(st.integers(0, min(400, len(content) - 1)), st.integers(0, len(content) - 1))  # headers come first
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(edge)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(edge) :]
    path = tmp_path / name
    path.write_bytes(bytes(content))
    try:
        clip = read_clip(path)
    except InputError as error:
        assert "\n" not in str(error) and name in str(error)
    else:
        assert len(clip) > 0 and np.isfinite(clip.poses).all()
