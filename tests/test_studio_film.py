"""Films: what they show and hold out, and that one which was stopped, or ran out of disc, goes on as if it had not been."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import toml
from engine.clips import read_clip
from engine.errors import InputError
from engine.pose import PoseClip

lessons = pytest.importorskip("engine.training.studio.lessons", reason="needs the extra [train]")
scene = pytest.importorskip("engine.training.studio.scene", reason="needs the extra [train]")

from engine.training.dataset import Clip, ClipFields, observe  # noqa: E402

SIZE, SEED = 128, 3


def motion(count: int, fps: float = 25.0, source: str = "motion") -> PoseClip:
    """Raises the left arm, while the whole person walks off to the side."""
    poses = np.zeros((count, 165), np.float32)
    poses[:, 48:51], poses[:, 51:54] = (0, 0, -1.1), (0, 0, 1.1)
    poses[:, 50] += np.linspace(0, 0.8, count)
    transl = np.linspace((0, 0, 0), (2, 0, 0), count).astype(np.float32)
    return PoseClip(fps, poses, np.zeros((count, 100), np.float32), transl, source=source)


def test_a_quarter_of_the_exploring_pictures_stands_in_pairs() -> None:
    script = lessons.lessons(80, seed=SEED)
    ticks = script.ticks[script.splits.train[0][0] : script.splits.train[0][1]]
    assert len(ticks) == 80
    paired = np.diff(ticks) == 1
    assert 2 * paired.sum() == 20
    assert (np.diff(ticks)[~paired] >= 4).all()


def test_each_held_out_part_has_its_name_and_its_own_time() -> None:
    judged = {"walk": motion(300, 120.0), "still": motion(5)}
    script = lessons.lessons(16, motion(40), judged, judged_frames=30, seed=SEED)
    parts = {name: np.arange(*ranges[0]) for name, ranges in script.splits.held_out.items()}
    assert {name: len(at) for name, at in parts.items()} == {"talk": 4, "explored": 100, "walk": 30, "still": 5}
    train = np.arange(*script.splits.train[0])
    everything = np.concatenate([train, *parts.values()])
    assert everything.tolist() == list(range(len(script.motion)))
    assert len(train) == 16 + 18  # two of every four of the talk's first 36
    assert (np.diff(script.ticks) > 0).all()
    assert (np.diff(script.ticks[parts["walk"]]) == 1).all()
    for first in (16, *(at[0] for at in parts.values())):
        assert script.ticks[first] - script.ticks[first - 1] > 2  # no neighbours across parts
    np.testing.assert_array_equal(script.motion.poses[parts["talk"]], motion(40).poses[36:])
    assert np.abs(script.motion.transl[parts["walk"]]).max() < 0.05  # staged: the person stays in the picture


def test_two_parts_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="name: expected other than talk, explored, got talk"):
        lessons.lessons(8, motion(40), {"talk": motion(5)}, seed=SEED)


class StoppedError(Exception):
    """As if somebody had killed the film."""


def script(count: int = 6) -> Any:
    few = motion(count)
    few = replace(few, transl=few.transl * 0.01)
    splits = lessons.SplitFields(((0, count - 2),), {"end": ((count - 2, count),)})
    return lessons.Script(few, np.arange(count, dtype=np.int64) * 2, splits)


def begun(assets: Path, out: Path, stop_at: int = 0, identity: str = "noah") -> None:
    """A film that is stopped after `stop_at` pictures."""

    def stop(done: int, total: int) -> None:
        if done >= stop_at:
            raise StoppedError

    with pytest.raises(StoppedError):
        scene.film(scene.Take(assets, identity, SIZE), script(), out, seed=SEED, workers=1, progress=stop)


@pytest.mark.parametrize("what", ["identity", "motion", "seed", "splits"])
def test_another_film_in_the_same_folder_is_refused(tmp_path: Path, what: str) -> None:
    begun(tmp_path, tmp_path / "film")  # no picture was begun: no assets needed
    shown, take, seed = script(), scene.Take(tmp_path, "noah", SIZE), SEED
    if what == "identity":
        take = replace(take, identity="ada")
    elif what == "seed":
        seed = 4
    elif what == "motion":
        shown = replace(shown, motion=replace(shown.motion, poses=shown.motion.poses + np.float32(0.1)))
    else:
        shown = replace(shown, splits=lessons.SplitFields(((0, 6),)))
    with pytest.raises(InputError, match=rf"{what}.* of the film begun there|{what}: expected that of the film"):
        scene.film(take, shown, tmp_path / "film", seed=seed)


def test_a_disc_too_small_is_known_before_filming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 6 * SIZE * SIZE * 4 - 1})
    monkeypatch.setattr("engine.training.arrays.shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"film: disc: expected 0\.00 GB free, got 0\.00 GB"):
        scene.film(scene.Take(tmp_path, "noah", SIZE), script(), tmp_path / "film")
    assert list((tmp_path / "film").iterdir()) == []
    with pytest.raises(InputError, match="identity: expected one of noah"):
        scene.film(scene.Take(tmp_path, "nobody", SIZE), script(), tmp_path / "film")


def test_missing_assets_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: folder: expected MakeHuman's CC0 assets"):
        scene.film(scene.Take(tmp_path / "none", "noah", SIZE), script(), tmp_path / "film")
    assert not (tmp_path / "film").exists()


@pytest.mark.slow
def test_what_a_process_complains_of_is_one_line_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"base.*: expected"):
        scene.film(scene.Take(tmp_path, "noah", SIZE), script(), tmp_path / "film", workers=1)


@pytest.fixture(scope="module")
def whole(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "film"
    scene.film(scene.Take(shared / "makehuman-cc0", "noah", SIZE), script(), out, seed=SEED, workers=1)
    return out


@pytest.mark.slow
def test_a_film_is_a_clip(whole: Path) -> None:
    observe(whole)
    clip = Clip.open(whole)
    assert clip.fields.synthetic
    assert clip.train().tolist() == [0, 1, 2, 3]
    assert clip.ticks.tolist() == [0, 2, 4, 6, 8, 10]
    np.testing.assert_array_equal(clip.motion().poses, script().motion.poses)
    assert clip.matte is not None
    for picture, matte, condition in zip(clip.frames, clip.matte, clip.condition, strict=True):
        assert 0.2 < (matte > 127).mean() < 0.7
        assert ((condition.max(2) > 0) & (matte < 128)).mean() < 0.005  # the mesh lies within the person
        assert picture[matte == 0].std() > 1  # the backdrop
    assert (np.abs(np.diff(clip.frames.astype(int), axis=0)).max(axis=(1, 2, 3)) > 20).all()


@pytest.mark.slow
def test_a_film_that_was_stopped_or_ran_out_of_disc_goes_on(whole: Path, shared: Path, tmp_path: Path) -> None:
    assets, out = shared / "makehuman-cc0", tmp_path / "film"
    begun(assets, out, stop_at=2)
    assert 2 <= np.load(out / "done.npy").sum() < 6
    observe(out)
    assert len(Clip.open(out).train()) + len(Clip.open(out).held_out()) < 6  # what is not there is not drawn
    take = scene.Take(assets, "noah", SIZE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * SIZE * SIZE * 3, hard))  # frames 5 and 6 have no room
    try:
        with pytest.raises(InputError, match=r"frames\.npy: row [45]: expected room on the disc, got"):
            scene.film(take, script(), out, seed=SEED, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not np.load(out / "done.npy").all()
    seen: list[tuple[int, int]] = []
    scene.film(take, script(), out, seed=SEED, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6)
    assert np.load(out / "done.npy").all()
    for name in ("frames.npy", "matte.npy", "clip.npz", "clip.toml"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert toml.read(out / "clip.toml", ClipFields).identity == "noah"
    assert len(read_clip(out / "clip.npz")) == 6
