"""BVH: the parser, the namings, and retargeting against known rotations and against the files' own skeletons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from engine.clips import HandSpace, read_clip
from engine.clips.bvh import parse_bvh
from engine.clips.bvh_names import match, tables
from engine.clips.convention import PELVIS
from engine.clips.retarget import LEG
from engine.errors import InputError
from engine.pose import PoseClip
from engine.skeleton import JOINT_NAMES, PARENTS, joint_slice

Tree = dict[str, tuple[str | None, tuple[float, float, float]]]  # joint: (parent, offset)


def person(spine: int = 3, neck: int = 1, arm: float = 0.0, names: dict[str, str] | None = None) -> Tree:
    """A standing person of 1.7 m in centimetres, facing +Z; arms `arm` degrees below a T-pose."""
    tree: Tree = {"pelvis": (None, (0, 0, 0))}
    last = "pelvis"
    for i in range(spine):
        tree[f"back{i}"] = (last, (0, 45 / spine, 0))
        last = f"back{i}"
    chest = last
    for i in range(neck):
        tree[f"nape{i}"] = (last, (0, 20 / neck, 0))
        last = f"nape{i}"
    tree["head"] = (last, (0, 10, 2))
    for side, sign in (("left", 1), ("right", -1)):
        down = Rotation.from_euler("z", -sign * arm, degrees=True)

        def limb(x: float, sign: int = sign, down: Rotation = down) -> tuple[float, float, float]:
            return tuple(down.apply((sign * x, 0, 0)))

        tree[f"{side}_collar"] = (chest, (sign * 3, 15, 0))
        tree[f"{side}_shoulder"] = (f"{side}_collar", (sign * 15, 0, 0))
        tree[f"{side}_elbow"] = (f"{side}_shoulder", limb(28))
        tree[f"{side}_wrist"] = (f"{side}_elbow", limb(25))
        for i, length in enumerate((9, 4, 3), 1):
            tree[f"{side}_index{i}"] = (f"{side}_wrist" if i == 1 else f"{side}_index{i - 1}", limb(length))
        tree[f"{side}_hip"] = ("pelvis", (sign * 9, -5, 0))
        tree[f"{side}_knee"] = (f"{side}_hip", (0, -40, 0))
        tree[f"{side}_ankle"] = (f"{side}_knee", (0, -40, 0))
        tree[f"{side}_foot"] = (f"{side}_ankle", (0, -6, 14))
    names = names or {}
    call = {joint: names.get(joint, joint) for joint in tree}
    return {call[joint]: (parent and call[parent], offset) for joint, (parent, offset) in tree.items()}


def bvh_text(
    tree: Tree, frames: list[dict[str, tuple[float, ...]]], order: str = "ZXY", time: float = 0.025,
    world: Rotation | None = None, root: tuple[float, float, float] = (0, 90, 0),
) -> str:  # fmt: skip
    """A file with these joints, their Euler angles in degrees (in the letters' order), in a world turned by `world`."""
    world = world or Rotation.identity()
    joints: list[str] = []
    rotations = " ".join(f"{axis}rotation" for axis in order)

    def block(name: str, indent: str) -> str:
        joints.append(name)
        parent, offset = tree[name]
        place = " ".join(f"{x:.6f}" for x in world.apply(offset))
        channels = f"3 {rotations}" if parent else f"6 Xposition Yposition Zposition {rotations}"
        inner = "".join(block(child, indent + "\t") for child in tree if tree[child][0] == name)
        inner = inner or f"{indent}\tEnd Site\n{indent}\t{{\n{indent}\t\tOFFSET 0 0 1\n{indent}\t}}\n"
        head = f"{indent}{'JOINT' if parent else 'ROOT'} {name}\n{indent}{{\n"
        return f"{head}{indent}\tOFFSET {place}\n{indent}\tCHANNELS {channels}\n{inner}{indent}}}\n"

    top = next(name for name in tree if tree[name][0] is None)
    text = "HIERARCHY\n" + block(top, "") + f"MOTION\nFrames: {len(frames)}\nFrame Time: {time}\n"
    for frame in frames:
        values = list(world.apply(frame.get("position", root)))
        for name in joints:
            angles = frame.get(name, (0, 0, 0))
            turn = world * Rotation.from_euler(order, angles, degrees=True) * world.inv()
            values += list(turn.as_euler(order, degrees=True))
        text += " ".join(f"{x:.6f}" for x in values) + "\n"
    return text


def spell(naming: str) -> dict[str, str]:
    return {ours: spellings[0] for ours, spellings in tables()[naming].items()}


def clip_of(tmp_path: Path, text: str, **options: Path) -> PoseClip:
    path = tmp_path / "clip.bvh"
    path.write_text(text)
    return read_clip(path, **options)


def turn_of(clip: PoseClip, joint: str, frame: int = 0) -> Rotation:
    return Rotation.from_rotvec(clip.poses[frame, joint_slice(joint)])


def global_turns(clip: PoseClip) -> dict[str, Rotation]:
    turns: dict[str, Rotation] = {}
    for name, parent in zip(JOINT_NAMES, PARENTS, strict=True):
        local = Rotation.from_rotvec(clip.poses[:, joint_slice(name)])
        turns[name] = local if parent < 0 else turns[JOINT_NAMES[parent]] * local
    return turns


def assert_body_is_zero(clip: PoseClip) -> None:
    np.testing.assert_allclose(clip.poses[:, :75], 0, atol=2e-6)


# The parser


@pytest.mark.parametrize("order", ["XYZ", "XZY", "YXZ", "YZX", "ZXY", "ZYX"])
def test_channel_orders_agree_with_scipy(order: str) -> None:
    angles = [{"left_elbow": (20, -50, 70), "pelvis": (170, 30, -60)}, {"left_shoulder": (10, 20, 30)}]
    bvh = parse_bvh("a", bvh_text(person(), angles, order))  # type: ignore[arg-type]
    turns, places = bvh.pose()
    names = bvh.names()
    elbow = names.index("left_elbow")
    root = Rotation.from_euler(order, (170, 30, -60), degrees=True)
    expected = root * Rotation.from_euler(order, (20, -50, 70), degrees=True)
    np.testing.assert_allclose(Rotation.from_quat(turns[0, elbow]).as_matrix(), expected.as_matrix(), atol=1e-5)
    rest = bvh.rest()
    np.testing.assert_allclose(places[0, elbow], root.apply(rest[elbow]) + np.array([0, 90, 0]), atol=1e-4)
    np.testing.assert_allclose(
        places[1, names.index("right_knee")], rest[names.index("right_knee")] + (0, 90, 0), atol=1e-4
    )


def test_layout_is_free_where_the_format_is() -> None:
    text = bvh_text(person(), [{}])
    tight = text.replace("\t", " ").replace("\n{\n", " {\n").replace("\n", "\r\n")
    assert parse_bvh("a", tight).rest().tolist() == parse_bvh("a", "\n\n" + text + "\n\n").rest().tolist()
    spaced = text.replace("JOINT head", "JOINT my head").replace("Frames: 1", "Frames:\t1")
    assert "my head" in parse_bvh("a", spaced).names()


GOOD = bvh_text(person(), [{}, {"head": (1, 2, 3)}])
LINES = GOOD.splitlines()


def line_of(start: str) -> int:
    return next(i for i, line in enumerate(LINES, 1) if line.strip().startswith(start))


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ("HIERARCHY", "HIERACHY", 1, "HIERARCHY"),
        ("ROOT pelvis", "JOINT pelvis", 2, "ROOT and a name"),
        ("ROOT pelvis", "ROOT", 2, "ROOT and a name"),
        ("OFFSET 0.000000 0.000000 0.000000", "OFFSET 0 0", 4, "3 numbers"),
        ("OFFSET 0.000000 0.000000 0.000000", "OFFSET 0 0 x", 4, "3 numbers"),
        ("OFFSET 0.000000 0.000000 0.000000", "OFFSET 0 0 nan", 4, "finite"),
        ("CHANNELS 6", "CHANNELS 5", 5, "CHANNELS"),
        ("Zposition Zrotation", "Zposition Wrotation", 5, "CHANNELS"),
        ("Zposition Zrotation", "Zposition Xposition", 5, "once"),
        ("End Site", "End", line_of("End Site"), "JOINT, End Site or }"),
        ("MOTION", "", line_of("MOTION") + 1, "MOTION"),
        ("Frames: 2", "Frames: two", line_of("Frames:"), "Frames:"),
        ("Frames: 2", "Frames: -2", line_of("Frames:"), "Frames:"),
        ("Frames: 2", "Frames: 0", line_of("Frames:"), "at least one"),
        ("Frame Time: 0.025", "Frame Time: 0", line_of("Frame Time:"), "0.001 to 1"),
        ("Frame Time: 0.025", "Frame Time: -0.025", line_of("Frame Time:"), "0.001 to 1"),
        ("Frame Time: 0.025", "Frame Time: nan", line_of("Frame Time:"), "finite"),
        ("Frame Time: 0.025", "Frame Time:", line_of("Frame Time:"), "Frame Time"),
        (LINES[-1], LINES[-1] + " 7", len(LINES), "numbers, got"),
        (LINES[-1], LINES[-1].rpartition(" ")[0], len(LINES), "numbers, got"),
        (LINES[-1], LINES[-1][:-1] + "x", len(LINES), "numbers"),
        (LINES[-1], "nan" + LINES[-1].partition(" ")[1] + LINES[-1].partition(" ")[2], len(LINES), "finite"),
    ],
)
def test_broken_files_name_the_line(tmp_path: Path, old: str, new: str, line: int, expected: str) -> None:
    assert old in GOOD
    broken = GOOD[::-1].replace(old[::-1], new[::-1], 1)[::-1] if old == LINES[-1] else GOOD.replace(old, new, 1)
    with pytest.raises(InputError, match=rf"line {line}\b.*{expected}"):
        clip_of(tmp_path, broken)


@pytest.mark.parametrize("cut", [20, 300, GOOD.index("MOTION") + 3, GOOD.index("Frame Time") + 12, len(GOOD) - 400])
def test_truncated_files_say_so(tmp_path: Path, cut: int) -> None:
    with pytest.raises(InputError):
        clip_of(tmp_path, GOOD[:cut])
    with pytest.raises(InputError, match=r"2 frames, got 1 rows.*cut short"):
        clip_of(tmp_path, GOOD[: GOOD.rindex("\n", 0, len(GOOD) - 1)])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_raise_nothing_but_input_errors(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
            st.sampled_from(b"0159-.einfa{} \n\t\xff\x00JOINT")
        )
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path = tmp_path / "a.bvh"
    path.write_bytes(bytes(content))
    try:
        clip = read_clip(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert len(clip) == 2 and np.isfinite(clip.transl).all()


# Namings


@pytest.mark.parametrize("naming", list(tables()))
def test_every_naming_is_found_and_retargeted(tmp_path: Path, naming: str) -> None:
    tree = person(names=spell(naming))
    found, joints = match("a", list(tree))
    names = list(tree)
    assert {ours: names[index] for ours, index in joints.items()}.items() >= {
        ours: theirs for ours, theirs in spell(naming).items() if theirs in names
    }.items()
    assert found == naming or naming == "cmu" or tables()[found].keys() >= tables()[naming].keys()
    knee = spell(naming)["left_knee"]
    clip = clip_of(tmp_path, bvh_text(tree, [{knee: (0, 40, 0)}]))
    np.testing.assert_allclose(clip.poses[0, joint_slice("left_knee")], (np.radians(40), 0, 0), atol=1e-5)
    assert abs(clip.poses[0, joint_slice("left_shoulder")]).max() < 1e-5


def test_namespaces_and_case_do_not_matter() -> None:
    plain = spell("mixamo")
    for dress in ("mixamorig:{}", "mixamorig1:{}", "Character1:{}", "mixamorig_{}"):
        _, joints = match("a", [dress.format(name) for name in plain.values()])
        assert len(joints) == len(plain)
    _, joints = match("a", [name.upper() for name in plain.values()])
    assert len(joints) == len(plain)


def test_unknown_names_ask_for_a_bone_map(tmp_path: Path) -> None:
    names = {joint: f"Knochen{i}" for i, joint in enumerate(person())}
    text = bvh_text(person(names=names), [{names["right_elbow"]: (0, 0, 45)}])
    with pytest.raises(InputError, match=r"left_hip.*bone map"):
        clip_of(tmp_path, text)
    bones = tmp_path / "bones.toml"
    bones.write_text("".join(f'{j} = "{n}"\n' for j, n in names.items() if j in JOINT_NAMES and j != "pelvis"))
    clip = clip_of(tmp_path, text, bone_map=bones)
    np.testing.assert_allclose(clip.poses[0, joint_slice("right_elbow")], (0, np.radians(45), 0), atol=1e-5)
    for wrong, complaint in (
        ('left_arm = "Knochen3"', "left_arm: expected a joint of SMPL-X"),
        ('left_elbow = "Bone"', "left_elbow.*'Bone'"),
        ("left_elbow = 3", "left_elbow"),
        ("left_elbow", "TOML"),
        ('head = "Knochen3"', "left_shoulder"),
    ):
        bones.write_text(wrong)
        with pytest.raises(InputError, match=complaint):
            clip_of(tmp_path, text, bone_map=bones)
    with pytest.raises(InputError, match="no such file"):
        clip_of(tmp_path, text, bone_map=tmp_path / "missing.toml")


# Retargeting

JOINTS = spell("joints")
WORLDS = {
    "y up": Rotation.identity(),
    "z up": Rotation.from_matrix([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "facing x": Rotation.from_euler("y", 90, degrees=True),
    "z up facing -x": Rotation.from_euler("z", -90, degrees=True)
    * Rotation.from_matrix([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
}


@pytest.mark.parametrize("world", list(WORLDS))
@pytest.mark.parametrize(("spine", "neck"), [(1, 0), (2, 1), (3, 1), (4, 2), (6, 1)])
def test_a_t_pose_is_the_zero_pose(tmp_path: Path, world: str, spine: int, neck: int) -> None:
    clip = clip_of(tmp_path, bvh_text(person(spine, neck, names=JOINTS), [{}, {}], world=WORLDS[world]))
    assert_body_is_zero(clip)
    assert clip.fps == 40.0
    np.testing.assert_allclose(clip.transl + PELVIS, [[0, 90 * LEG / 80, 0]] * 2, atol=1e-5)  # legs of 80 cm


@pytest.mark.parametrize("arm", [45.0, 90.0, -20.0])
def test_a_lowered_rest_pose_is_lowered_arms(tmp_path: Path, arm: float) -> None:
    """A file that rests with its arms down, and one that rests in a T-pose and lowers them, are the same motion."""
    rests = clip_of(tmp_path, bvh_text(person(arm=arm, names=JOINTS), [{}]))
    moves = clip_of(
        tmp_path,
        bvh_text(
            person(names=JOINTS), [{JOINTS["left_shoulder"]: (-arm, 0, 0), JOINTS["right_shoulder"]: (arm, 0, 0)}]
        ),
    )
    np.testing.assert_allclose(rests.poses, moves.poses, atol=1e-5)
    np.testing.assert_allclose(rests.poses[0, joint_slice("left_shoulder")], (0, 0, -np.radians(arm)), atol=1e-5)
    raised = {JOINTS["left_shoulder"]: (arm, 0, 0), JOINTS["right_shoulder"]: (-arm, 0, 0)}
    assert_body_is_zero(clip_of(tmp_path, bvh_text(person(arm=arm, names=JOINTS), [raised])))


@pytest.mark.parametrize("world", list(WORLDS))
def test_rotations_arrive_in_the_bodys_axes(tmp_path: Path, world: str) -> None:
    angles = {
        joint: (10 + i, -20 + 2 * i, 15 - i) for i, joint in enumerate(("left_shoulder", "right_elbow", "left_ankle"))
    }
    frame = {JOINTS[joint]: value for joint, value in angles.items()}
    clip = clip_of(tmp_path, bvh_text(person(names=JOINTS), [frame], world=WORLDS[world]))
    for joint, value in angles.items():
        expected = Rotation.from_euler("ZXY", value, degrees=True)
        assert (turn_of(clip, joint).inv() * expected).magnitude() < 1e-5


@pytest.mark.parametrize("spine", [1, 2, 3, 4, 6])
def test_the_spine_is_shared_out(tmp_path: Path, spine: int) -> None:
    bend = {f"back{i}": (0, 36 / spine, 0) for i in range(spine)}
    clip = clip_of(tmp_path, bvh_text(person(spine, names=JOINTS), [bend]))
    for joint in ("spine1", "spine2", "spine3"):
        np.testing.assert_allclose(clip.poses[0, joint_slice(joint)], (np.radians(12), 0, 0), atol=1e-4)
    np.testing.assert_allclose(clip.poses[0, joint_slice("head")], 0, atol=1e-5)


def test_the_first_frame_faces_forward_over_the_origin(tmp_path: Path) -> None:
    turned = Rotation.from_euler("ZXY", (0, 0, 130), degrees=True)
    walk = [{"Hips": (0, 0, 130), "position": (30, 90, -50)}, {"Hips": (0, 0, 130), "position": (40, 91, -50)}]
    clip = clip_of(tmp_path, bvh_text(person(names=JOINTS), walk))
    assert_body_is_zero(clip)
    step = turned.inv().apply((10, 1, 0)) * LEG / 80
    np.testing.assert_allclose(clip.transl[0] + PELVIS, (0, 90 * LEG / 80, 0), atol=1e-5)
    np.testing.assert_allclose(clip.transl[1] - clip.transl[0], step, atol=1e-5)


def test_a_calibration_frame_is_dropped_and_a_fast_start_is_not(tmp_path: Path) -> None:
    pose = [{JOINTS["left_shoulder"]: (-80 + 0.5 * i, 0, 0)} for i in range(5)]
    assert len(clip_of(tmp_path, bvh_text(person(names=JOINTS), [{}, *pose]))) == 5
    swing = [{JOINTS["left_shoulder"]: (-30 * i, 0, 0)} for i in range(4)]
    assert len(clip_of(tmp_path, bvh_text(person(names=JOINTS), swing))) == 4


def test_hands_without_fingers_are_relaxed_and_fingers_arrive(tmp_path: Path) -> None:
    relaxed = HandSpace.relaxed()
    clip = clip_of(tmp_path, bvh_text(person(names=JOINTS), [{}]))
    np.testing.assert_allclose(clip.poses[0, 75:120], relaxed.mean_left, atol=1e-6)
    names = spell("mixamo")
    clip = clip_of(tmp_path, bvh_text(person(names=names), [{names["left_index2"]: (-50, 0, 0)}]))
    np.testing.assert_allclose(clip.poses[0, joint_slice("left_index2")], (0, 0, -np.radians(50)), atol=1e-5)
    assert np.abs(clip.poses[0, joint_slice("left_middle2")]).max() < 1e-6


def test_a_rest_pose_that_is_nobody_is_refused(tmp_path: Path) -> None:
    tree = {name: (parent, (0.0, 0.0, 0.0)) for name, (parent, _) in person(names=JOINTS).items()}
    with pytest.raises(InputError, match="standing person"):
        clip_of(tmp_path, bvh_text(tree, [{}]))


# The real files

REAL = {"01_01": (2751, 120.0), "AV_8Walk_Meredith_HVHA_Rep1": (1064, 120.0), "sample": (1299, 40.0)}


@pytest.mark.parametrize("name", list(REAL))
def test_real_files_stand_and_face_forward(shared: Path, name: str) -> None:
    clip = read_clip(shared / f"data/bvh/{name}.bvh")
    assert (len(clip), clip.fps) == REAL[name]
    turns = global_turns(clip)
    assert turns["pelvis"].apply([0, 1, 0])[:, 1].mean() > 0.85
    assert turns["spine3"].apply([0, 1, 0])[:, 1].mean() > 0.8
    assert turns["head"].apply([0, 0, 1])[0, 2] > 0.7
    height = clip.transl[:, 1] + PELVIS[1]
    assert 0.7 < np.median(height) < 1.1 and height.max() < 1.5
    np.testing.assert_allclose((clip.transl[0] + PELVIS)[[0, 2]], 0, atol=1e-5)


@pytest.mark.parametrize("name", list(REAL))
def test_real_limbs_point_where_the_file_points_them(shared: Path, name: str) -> None:
    """Bones of the retargeted body against the file's own forward kinematics, up to the heading of the whole."""
    path = shared / f"data/bvh/{name}.bvh"
    clip, bvh = read_clip(path), parse_bvh(name, path.read_text())
    _, joints = match(name, bvh.names())
    places = bvh.pose()[1][len(bvh.motion) - len(clip) :]
    turns = global_turns(clip)
    bones = []
    for side, x in (("left", 1), ("right", -1)):
        limbs = (("shoulder", "elbow", (x, 0, 0)), ("elbow", "wrist", (x, 0, 0)))
        limbs += (("hip", "knee", (0, -1, 0)), ("knee", "ankle", (0, -1, 0)))
        bones += [(f"{side}_{a}", f"{side}_{b}", axis) for a, b, axis in limbs]
    theirs = np.stack([places[:, joints[b]] - places[:, joints[a]] for a, b, _ in bones], 1)
    theirs /= np.linalg.norm(theirs, axis=-1, keepdims=True)
    ours = np.stack([turns[a].apply(axis) for a, _, axis in bones], 1)
    heading, _ = Rotation.align_vectors(ours[::97].reshape(-1, 3), theirs[::97].reshape(-1, 3))
    assert abs(heading.apply([0, 1, 0])[1]) > 0.9999  # only a heading
    np.testing.assert_allclose(ours, heading.apply(theirs.reshape(-1, 3)).reshape(theirs.shape), atol=2e-3)
