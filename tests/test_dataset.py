"""Clips on disc: what a folder holds is checked, videos come back bit for bit, and a user's own video becomes a clip."""

from __future__ import annotations

import pickle
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from small_avatar import SIZE, write_clip
from typer.testing import CliRunner

from engine import toml
from engine.avatar import BodyFields, CameraFields
from engine.body import BodyModel
from engine.camera import Camera, look_at
from engine.clips import read_clip
from engine.clips import write_clip as write_motion
from engine.condition import Condition
from engine.errors import InputError
from engine.pose import PoseClip
from engine.standin import standin_path
from engine.training.adopt import adopt
from engine.training.arrays import Rows, create
from engine.training.dataset import Clip, ClipFields, SplitFields, observe, write_fields
from engine.training.frames import Frames
from engine.training.video import examine, pack, unpack

rng = np.random.default_rng(5)
WIDE, HIGH, COUNT, FPS = 192, 128, 12, 30.0
CAMERA = Camera(WIDE, HIGH, 400.0, 400.0, 90.0, 70.0, look_at((0.0, 0.1, 2.5), (0.0, 0.1, 0.0), 128, 0.5).view)


def motion(count: int = COUNT, fps: float = FPS) -> PoseClip:
    poses = rng.normal(0, 0.05, (count, 165)).astype(np.float32)
    transl = rng.normal(0, 0.01, (count, 3)).astype(np.float32)
    return PoseClip(fps, poses, np.zeros((count, 100), np.float32), transl)


def write_video(path: Path, count: int = COUNT, rate: int = 30) -> Path:
    """A square of 64 pixels wanders over grey, as any camera's program would write it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = WIDE, HIGH, "yuv420p"
        for i in range(count):
            picture = np.full((HIGH, WIDE, 3), 90, np.uint8)
            picture[32:96, 40 + i : 104 + i] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_camera(path: Path, **changes: Any) -> Path:
    fields = {"width": WIDE, "height": HIGH, "fx": CAMERA.fx, "fy": CAMERA.fy, "cx": CAMERA.cx, "cy": CAMERA.cy}
    fields |= {"view": [[float(x) for x in row] for row in CAMERA.view]} | changes
    path.write_text(toml.dumps(fields))
    return path


def show_file(path: Path, count: int = COUNT) -> dict[str, np.ndarray]:
    """A SHOW file: in camera coordinates, Y down, the person two metres away and upright, a little off the axis."""
    root = np.tile(np.array([np.pi, 0.0, 0.0], np.float32), (count, 1)) + rng.normal(0, 0.1, (count, 3)).astype("f4")
    told = {
        "width": np.float32(WIDE), "height": np.float32(HIGH), "focal_length": np.float32(430),
        "center": np.array([95.0, 61.0], np.float32), "camera_transl": np.array([0.05, 0.1, 2.2], np.float32),
        "global_orient": root[:, None], "body_pose_axis": rng.normal(0, 0.1, (count, 63)).astype("f4"),
        "expression": np.zeros((count, 100), np.float32), "transl": rng.normal(0, 0.05, (count, 3)).astype("f4"),
        "betas": np.zeros((1, 300), np.float32),
    }  # fmt: skip
    told |= {f"{part}_pose": np.zeros((count, 3), np.float32) for part in ("jaw", "leye", "reye")}
    told |= {f"{side}_hand_pose": np.zeros((count, 12), np.float32) for side in ("left", "right")}
    path.write_bytes(pickle.dumps(told))
    return told


def test_held_out_parts_are_told_apart(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    text = (folder / "clip.toml").read_text()
    parts = "talk = [[5, 7]]\nbeat2 = [[7, 8], [9, 10]]"
    (folder / "clip.toml").write_text(text.replace("[[0, 8]]", "[[0, 5]]").replace("end = [[8, 10]]", parts))
    clip = Clip.open(folder)
    assert clip.train().tolist() == [0, 1, 2, 3, 4]
    assert clip.held_out("talk").tolist() == [5, 6]
    assert clip.held_out("beat2").tolist() == [7, 9]
    assert clip.held_out().tolist() == [5, 6, 7, 9]
    with pytest.raises(InputError, match=r"expected talk \| beat2, got dance"):
        clip.held_out("dance")


def test_only_pictures_of_the_same_second_are_a_window(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    np.save(folder / "ticks.npy", np.array([0, 1, 5, 40, 41, 43, 1000, 1002, 2000, 2001]))
    frames = Frames.train([Clip.open(folder)])  # the first eight
    drawn = [[frames.window(at, 2, np.random.default_rng(seed))[0] for at in range(8)] for seed in range(20)]
    # up to two pictures back, but never from before a cut
    assert [set(before) for before in zip(*drawn, strict=True)] == [
        {0},
        {0, 1},
        {0, 1},
        {3},
        {3, 4},
        {3, 4},
        {6},
        {6, 7},
    ]


def test_mattes_are_drawn_or_said_to_be_missing(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    mattes = Frames.train([Clip.open(folder)]).mattes([0, 3])
    assert mattes.shape == (2, 1, SIZE, SIZE)
    assert mattes.mean().item() == pytest.approx(0.25)
    (folder / "matte.npy").unlink()
    clip = Clip.open(folder)
    assert clip.matte is None
    with pytest.raises(InputError, match=r"matte\.npy: expected the person's coverage"):
        Frames.train([clip]).mattes([0])


def test_a_row_without_room_is_one_line(tmp_path: Path) -> None:
    create(tmp_path / "a.npy", (8, 1000), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Rows(tmp_path / "a.npy") as rows:
        rows[0] = np.full(1000, 7)
        with pytest.raises(ValueError, match=r"a row of a\.npy is"):
            rows[1] = np.zeros(999)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        try:
            with pytest.raises(InputError, match=r"a\.npy: row 5: expected room on the disc"):
                rows[5] = np.ones(1000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert np.load(tmp_path / "a.npy").sum(1).tolist() == [7000, *[0] * 7]


@pytest.mark.parametrize("shape", [(4, 64, 64, 3), (4, 64, 64)])
def test_packed_pictures_come_back_bit_for_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pictures = rng.integers(0, 256, shape, np.uint8)
    np.save(tmp_path / "a.npy", pictures)
    pack(tmp_path / "a.npy", tmp_path / "a.mkv", 25.0, "a synthetic person")
    with av.open(str(tmp_path / "a.mkv")) as container:
        assert container.metadata["COMMENT"] == "a synthetic person"
    assert examine(tmp_path / "a.mkv").pictures == 4
    unpack(tmp_path / "a.mkv", tmp_path / "b.npy", 64, gray=len(shape) == 3)
    assert np.array_equal(np.load(tmp_path / "b.npy"), pictures)


def test_a_cut_off_or_damaged_video_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    folder = own_clip(tmp_path / "clip", motion(8))
    video = folder / "video.mkv"
    np.save(folder / "frames.npy", rng.integers(0, 256, (8, 64, 64, 3), np.uint8))
    pack(folder / "frames.npy", video, FPS, "")
    (folder / "frames.npy").unlink()
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) * 3 // 5])
    with pytest.raises(InputError, match=r"clip\.npz: poses: expected [345] samples.*got 8 \(is the video cut off"):
        observe(folder)
    video.write_bytes(b"no video")
    with pytest.raises(InputError, match=r"video\.mkv: file: expected a whole video"):
        observe(folder)
    video.write_bytes(whole[: len(whole) // 2] + bytes(2000) + whole[len(whole) // 2 + 2000 :])
    with pytest.raises(InputError, match=r"video\.mkv: picture"):
        unpack(video, folder / "observed" / "frames.npy", 64)
    assert list((folder / "observed").iterdir()) == []


def test_a_users_video_becomes_a_clip(tmp_path: Path) -> None:
    video, poses = write_video(tmp_path / "a.mp4"), motion()
    write_motion(tmp_path / "a.npz", poses)
    camera = write_camera(tmp_path / "camera.toml")
    adopt(video, tmp_path / "a.npz", tmp_path / "me", identity="me", size=64, crop=(32, 0, 128), camera=camera)
    observe(tmp_path / "me")
    clip = Clip.open(tmp_path / "me")
    assert (clip.fields.identity, clip.fields.fps, clip.frames.shape) == ("me", FPS, (COUNT, 64, 64, 3))
    assert clip.train().tolist() == list(range(COUNT - 1))
    assert clip.held_out("end").tolist() == [COUNT - 1]
    assert clip.frames[3, 32, 8:36].min() > 200  # the square, from 43 - 32 of the video on, halved
    assert clip.frames[3, 4].max() < 110
    points = rng.normal(0, 0.2, (5, 3))
    seen = clip.fields.camera.camera().project(points)
    np.testing.assert_allclose(seen[:, :2], (CAMERA.project(points)[:, :2] - (32, 0)) / 2, atol=1e-6)
    np.testing.assert_array_equal(clip.motion().poses, poses.poses)


def test_the_command_makes_a_clip_that_training_reads(tmp_path: Path) -> None:
    """With a body file of the user's own, to whose shapes the motion's betas belong."""
    from liveanchor import app

    video, poses, body = write_video(tmp_path / "a.mp4"), motion(), standin_path()
    write_motion(tmp_path / "a.npz", replace(poses, betas=np.array([0.5, -1.0], np.float32)))
    camera = write_camera(tmp_path / "camera.toml")
    words = [video, tmp_path / "a.npz", tmp_path / "me", "--identity", "me", "--body", body, "--camera", camera]
    said = CliRunner().invoke(app, ["clip", *map(str, words), "--size", "64", "--crop", "32,0,128"])
    assert said.exit_code == 0, said.output
    clip = Clip.open(tmp_path / "me")
    assert clip.fields.body == BodyFields(str(body), (0.5, -1.0))
    model, view = BodyModel.load(body), clip.fields.camera.camera()

    def mesh(betas: np.ndarray | None) -> np.ndarray:
        person = model.shaped(betas)
        return Condition(person, view).render(person.vertices(poses.poses[2], poses.expressions[2], poses.transl[2]))

    assert np.array_equal(clip.condition[2], mesh(np.array([0.5, -1.0])))
    assert not np.array_equal(clip.condition[2], mesh(None))
    said = CliRunner().invoke(app, ["clip", *map(str, words), "--crop", "32,0"])
    assert str(said.exception) == "clip: --crop: expected X,Y,SIZE in pixels, as in 420,0,1080, got 32,0"


def test_motion_at_another_rate_is_resampled(tmp_path: Path) -> None:
    video, camera = write_video(tmp_path / "a.mp4"), write_camera(tmp_path / "camera.toml")
    write_motion(tmp_path / "a.npz", motion(48, 120.0))
    adopt(video, tmp_path / "a.npz", tmp_path / "me", identity="me", size=64, camera=camera)
    assert len(read_clip(tmp_path / "me" / "clip.npz")) == COUNT


def test_show_brings_its_camera(tmp_path: Path) -> None:
    """The joints fall where SHOW's own renderer puts them: x and y of its camera's translation count the other way."""
    video, told = write_video(tmp_path / "a.mp4"), show_file(tmp_path / "a.pkl")
    adopt(video, tmp_path / "a.pkl", tmp_path / "me", identity="me", size=128, crop=(10, 0, 128))
    clip, body = read_clip(tmp_path / "me" / "clip.npz"), BodyModel.load(standin_path()).shaped()
    fields = toml.read(tmp_path / "me" / "clip.toml", ClipFields)
    for i in (0, 7):
        pose = np.zeros(165, np.float32)
        pose[:3], pose[3:66] = told["global_orient"][i, 0], told["body_pose_axis"][i]
        x, y, z = body.joints(pose, told["expression"][i], told["transl"][i])[:23].T  # as in the file, without fingers
        tx, ty, tz = told["camera_transl"]
        expected = np.stack([95 - 10 + 430 * (x - tx) / (z + tz), 61 + 430 * (y - ty) / (z + tz)], axis=1)
        joints = body.joints(clip.poses[i], clip.expressions[i], clip.transl[i])[:23]
        np.testing.assert_allclose(fields.camera.camera().project(joints)[:, :2], expected, atol=0.05)


def test_a_folder_may_name_its_own_video_and_motion(tmp_path: Path) -> None:
    pictures = rng.integers(0, 256, (3, 64, 64, 3), np.uint8)
    np.save(tmp_path / "a.npy", pictures)
    folder = tmp_path / "clip"
    folder.mkdir()
    pack(tmp_path / "a.npy", folder / "take.mkv", 30.0, "")
    show_file(folder / "take.pkl", 3)
    camera = CameraFields.of(look_at((0.0, 0.1, 2.5), (0.0, 0.1, 0.0), 64, 0.5))
    write_fields(
        folder, ClipFields(30.0, 64, camera, SplitFields(((0, 3),)), motion="take.pkl", video="take.mkv")
    )  # fmt: skip
    observe(folder)
    assert np.array_equal(Clip.open(folder).frames, pictures)


BAD = {
    "length": r"a\.npz: length: expected 12 samples, one for each picture of a\.mp4, got 11 samples",
    "rates": r"a\.npz: length: expected 12 samples.* at 30 a second, got 14 from 12 at 24 a second",
    "camera": r"a\.npz: camera: expected --camera FILE\.toml.*got neither",
    "shape": r"camera\.toml: camera: expected the shape of a\.mp4, 192x128, got 128x128",
    "view": r"camera\.toml: view: expected 4 rows of 4 numbers",
    "crop": r"a\.mp4: crop: expected x,y,size within 192x128, got 100,0,128",
    "cut off": r"a\.mp4: file: expected a whole video",
    "missing": r"a\.mp4: file: expected a video, got no such file",
    "there": r"me: folder: expected one without a clip",
}


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_fit_is_one_line_and_no_clip(tmp_path: Path, what: str) -> None:
    video, camera = write_video(tmp_path / "a.mp4"), write_camera(tmp_path / "camera.toml")
    write_motion(tmp_path / "a.npz", motion(11 if what == "length" else COUNT, 24.0 if what == "rates" else FPS))
    if what == "shape":
        write_camera(camera, width=128)
    elif what == "view":
        write_camera(camera, view=[[2.0, 0.0, 0.0, 0.0]] * 4)
    elif what == "cut off":
        video.write_bytes(video.read_bytes()[:-400])
    elif what == "missing":
        video.unlink()
    elif what == "there":
        (tmp_path / "me").mkdir()
        (tmp_path / "me" / "clip.toml").write_text("")
    with pytest.raises(InputError, match=BAD[what]):
        adopt(
            video, tmp_path / "a.npz", tmp_path / "me", identity="me", size=64,
            crop=(100, 0, 128) if what == "crop" else None, camera=None if what == "camera" else camera,
        )  # fmt: skip
    assert what == "there" or not (tmp_path / "me" / "clip.toml").exists()


@pytest.mark.parametrize("name", ["height", "camera_transl", "focal_length"])
def test_a_show_file_without_camera_names_what_is_missing(tmp_path: Path, name: str) -> None:
    video, told = write_video(tmp_path / "a.mp4"), show_file(tmp_path / "a.pkl")
    told.pop(name)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(told))
    with pytest.raises(InputError, match=rf"a\.pkl: {name}: expected .* got nothing"):
        adopt(video, tmp_path / "a.pkl", tmp_path / "me", identity="me")


def own_clip(folder: Path, poses: PoseClip) -> Path:
    """A clip of grey pictures, not observed yet."""
    folder.mkdir()
    np.save(folder / "frames.npy", np.full((len(poses), 64, 64, 3), 90, np.uint8))
    write_motion(folder / "clip.npz", poses)
    camera = CameraFields.of(look_at((0.0, 0.1, 2.5), (0.0, 0.1, 0.0), 64, 0.5))
    write_fields(folder, ClipFields(FPS, 64, camera, SplitFields(((0, 2),)), "me", BodyFields()))
    return folder


def test_observing_a_frame_without_a_person_names_it(tmp_path: Path) -> None:
    poses = motion(4)
    poses.transl[2] = (50.0, 0.0, 0.0)
    folder = own_clip(tmp_path / "away", poses)
    with pytest.raises(InputError, match=r"away: frame 2: expected a person in the picture"):
        observe(folder)
    with pytest.raises(InputError, match="made by `observe`"):
        Clip.open(folder)
    folder = own_clip(tmp_path / "empty", motion(4))
    mattes = np.full((4, 64, 64), 255, np.uint8)
    mattes[1] = 0
    np.save(folder / "matte.npy", mattes)
    with pytest.raises(InputError, match=r"matte\.npy: frame 1: expected a person in the picture, got nobody"):
        observe(folder)


def test_observing_motion_of_another_length_or_rate_is_refused(tmp_path: Path) -> None:
    folder = own_clip(tmp_path / "clip", motion(4))
    write_motion(folder / "clip.npz", motion(5))
    with pytest.raises(InputError, match=r"clip\.npz: poses: expected 4 samples, one for each picture, got 5"):
        observe(folder)
    write_motion(folder / "clip.npz", motion(4, 25.0))
    with pytest.raises(InputError, match=r"clip\.npz: frame rate: expected 30 as in clip\.toml, got 25"):
        observe(folder)


def test_observing_on_a_full_disc_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own_clip(tmp_path / "clip", motion(4))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("engine.training.arrays.shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"clip: disc: expected 0\.00 GB free"):
        observe(folder)
    assert list((folder / "observed").iterdir()) == []
