"""The figures by which an avatar is judged, each against what it must be by definition, and all of them in one run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_avatar import SIZE, write_clip
from typer.testing import CliRunner

from bench.quality import judge, tables
from bench.quality.judge import Scores
from bench.quality.metrics import LUMA, correlation, frechet, jackknife, psnr, ssim, stacked
from bench.quality.paint import AGAIN, Painter
from bench.quality.parts import Part, held_out
from bench.quality.regressor import RECIPE, Crops, LandmarkStage, Regressor, distances
from bench.quality.run import Order, picked, run
from bench.quality.sheet import sheet, write_jpeg
from bench.quality.video import side_by_side, write_mp4
from bench.quality.views import SIZES, VIEWS, back, inside, jittered, moved, view
from bench.record import record
from engine.clips import write_clip as write_motion
from engine.errors import InputError
from engine.pose import PoseClip, PoseFrame
from engine.training import loop
from engine.work import Crops as Seen
from engine.work import Work
from liveanchor import app

rng = np.random.default_rng


def picture(seed: int, size: int = 40) -> np.ndarray:
    """A smooth random picture."""
    coarse = rng(seed).integers(0, 256, (5, 5, 3)).astype(np.float64)
    return np.kron(coarse, np.ones((size // 5, size // 5, 1))).astype(np.uint8)


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equations 6 to 13, window by window."""
    at = np.arange(11) - 5
    weights = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    x, y = a @ LUMA, b @ LUMA
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            p, q = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            both = (weights * (p - mp) * (q - mq)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append((2 * mp * mq + c1) * (2 * both + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


def test_psnr_and_ssim_by_definition() -> None:
    a = picture(0)
    noisy = np.clip(a.astype(int) + rng(1).integers(-20, 21, a.shape), 0, 255).astype(np.uint8)
    assert psnr(a, noisy) == pytest.approx(10 * np.log10(255**2 / np.mean((a.astype(float) - noisy) ** 2)), abs=1e-4)
    assert ssim(a, noisy) == pytest.approx(slow_ssim(a, noisy), abs=1e-6)
    assert ssim(a, a) == pytest.approx(1.0)
    assert np.isnan(ssim(a[:10], a[:10]))


def test_frechet_of_known_gaussians() -> None:
    a = rng(0).normal(size=(4000, 3))
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-6)
    # N(0, 1) and N(m, s^2): m^2 + (1 - s)^2 in each dimension
    assert frechet(a, 3 * a + [1.0, 2.0, 0.0]) == pytest.approx(
        np.sum((a.mean(axis=0) * 2 + [1, 2, 0]) ** 2) + 4 * a.var(axis=0, ddof=1).sum(), rel=1e-6
    )


def test_stacks_hold_only_neighbours() -> None:
    features = np.arange(7.0)[:, None]
    follows = np.array([False, True, True, False, True, True, True])
    assert stacked(features, follows, 3).tolist() == [[0, 1, 2], [3, 4, 5], [4, 5, 6]]
    assert stacked(features, follows, 5).shape == (0, 5)


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = rng(3).normal(size=60)
    value, error = jackknife(lambda at: float(x[at].mean()), len(x), blocks=len(x))
    assert value == pytest.approx(x.mean())
    assert error == pytest.approx(x.std(ddof=1) / np.sqrt(len(x)))


def test_correlation_leaves_out_what_is_not_there() -> None:
    a = np.array([1.0, 2.0, np.nan, 4.0])
    assert correlation(a, 3 * a - 1) == pytest.approx(1.0)
    assert np.isnan(correlation(a, np.ones(4)))


@pytest.mark.parametrize("name", VIEWS)
def test_crops_hold_their_landmarks_and_do_not_tell_where_they_are(name: str) -> None:
    points = rng(0).uniform(150, 250, (16, 2)).astype(np.float32)
    ways = [view(name, points, 512), *(jittered(name, points, 512, rng(i)) for i in range(20))]
    for way in ways:
        assert np.allclose(back(moved(points, way), way), points, atol=1e-3)
        if VIEWS[name] != "body":
            assert inside(moved(points, way), SIZES[VIEWS[name]]).all()
        assert (np.linalg.det(way[:, :2]) < 0) == (name == "left_hand")
    # a crop for judging stays where it is while its landmarks move a little
    assert any(np.array_equal(view(name, points, 512), view(name, points + d, 512)) for d in (0.5, -0.5))


def square_crops(count: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Bright squares on noise, and their corners."""
    random, pictures, points = rng(seed), [], []
    for _ in range(count):
        image = random.integers(0, 60, (SIZE, SIZE, 3)).astype(np.uint8)
        x, y = random.integers(30, 50, 2)
        image[y : y + 40, x : x + 40] = (230, 200, 90)
        pictures.append(image)
        points.append([(x, y), (x + 40, y), (x, y + 40), (x + 40, y + 40)])
    return pictures, np.array(points, np.float32)


@pytest.mark.slow
def test_the_regressor_learns_from_pixels_and_resumes(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    pictures, points = square_crops(24, 0)
    fresh, corners = square_crops(12, 1)
    truth = dict.fromkeys(VIEWS, corners)
    stage = LandmarkStage({n: Crops.of(n, pictures, points, SIZE) for n in VIEWS}, (fresh, truth), each=4)
    errors = []
    for steps in (1, 30, 30):
        recipe = replace(RECIPE, steps=steps, rate=5e-3, decay=0.8)
        found = Regressor(loop.run(stage, tmp_path / "run", recipe, show=False)).find(fresh, truth)
        errors.append(np.mean([distances(found.places[n], corners, SIZE).mean() for n in VIEWS]))
        assert found.features.shape == (12, 4 * 32)
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] == pytest.approx(errors[1])  # a finished run is not trained again


def test_landmarks_outside_the_picture_do_not_count() -> None:
    truth = np.array([[[10.0, 10.0], [-5.0, 10.0]], [[-1.0, 0.0], [0.0, 200.0]]])
    found = truth + np.array([3.0, 4.0])
    found[0, 1] += 100
    assert distances(found, truth, 128)[0] == pytest.approx(5.0)
    assert np.isnan(distances(found, truth, 128)[1])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A synthetic clip with a motion: nobody's, but every array is there."""
    folder = write_clip(tmp_path / "square", frames=24)
    poses = rng(0).normal(0, 0.02, (24, 165)).astype(np.float32)
    motion = PoseClip(25.0, poses, np.zeros((24, 100), np.float32), np.zeros((24, 3), np.float32))
    write_motion(folder / "clip.npz", motion)
    text = (
        (folder / "clip.toml")
        .read_text()
        .replace("[[0, 22]]", "[[0, 8]]")
        .replace("end = [[22, 24]]", "talk = [[8, 24]]")
    )
    (folder / "clip.toml").write_text(text)
    return folder


def test_parts_know_which_pictures_follow_each_other(clip: Path) -> None:
    np.save(clip / "ticks.npy", np.concatenate([np.arange(12), 5 * np.arange(3, 15)]).astype(np.int64))
    (part,) = held_out([clip])
    assert part.name == "talk" and part.follows.tolist() == [False, *[True] * 3, *[False] * 12]
    assert [len(run) for run in part.runs()] == [4, *[1] * 12]
    assert not part.moves


def test_figures_of_pictures_that_are_true_and_of_those_that_flicker(clip: Path) -> None:
    (part,) = held_out([clip])
    truth = np.stack([part.clip.frames[i] for i in part.indices])
    perfect = judge.pixel_figures(truth, part, 3)
    assert perfect["change_error"] == 0 and perfect["still_change"] == 0 and perfect["ssim_person"] == pytest.approx(1)
    flickering = np.clip(truth.astype(int) + 4 * (np.arange(len(truth)) % 2)[:, None, None, None], 0, 255).astype(
        np.uint8
    )
    figures = judge.pixel_figures(flickering, part, 3)
    assert figures["change_error"] == pytest.approx(4, abs=0.3)
    assert figures["still_change"] == pytest.approx(4, abs=0.3)
    assert judge.flicker(np.stack([truth[0], truth[0] ^ 1, truth[0]])) == 1
    assert np.isnan(judge.pixel_figures(truth, part, 0)["change_error"])


def scores(seed: int, quality: float, frames: int = 60) -> Scores:
    """Figures of a row that is `quality` better than nothing, with noise that all rows share."""
    noise = rng(0).normal(size=(frames, 5)) + 0.01 * rng(seed).normal(size=(frames, 5))
    names = ("psnr_person", "psnr_face", "psnr_hands", "lmd_face", "change_error")
    columns = {n: noise[:, i] + quality * (1 if n.startswith("psnr") else -1) for i, n in enumerate(names)}
    columns |= {n: np.zeros(frames) for n in ("lmd_body", "lmd_hands", "opening", "opening_true", "opening_mesh")}
    features = rng(1).normal(size=(frames, 4))
    return Scores(
        columns, features - quality, features, np.arange(frames) > 0, tuple(("talk", i) for i in range(frames))
    )


def test_effects_have_a_direction_only_beyond_their_error() -> None:
    rows = tables.read_rows()
    measured = {"full": scores(1, 0.0), "without face enhancement": scores(2, -0.5), "Setting I": scores(3, 0.0)}
    found = tables.effects(measured, rows)
    worse = found["without face enhancement"]
    assert worse["lmd_face"].direction == "worse" and worse["lmd_face"].verdict == "same"
    assert worse["psnr_face"].direction == "worse" and worse["psnr_face"].verdict == ""
    assert worse["frechet_video"].verdict == "opposite"  # the paper's FVD is better without
    assert found["Setting I"]["lmd_face"].verdict == "no difference"
    assert tables.other_row("Setting I", measured, rows) == "full"  # nothing was trained as short


def test_rows_that_were_not_measured_say_so_and_reasons_come_from_a_file(tmp_path: Path) -> None:
    rows = tables.read_rows()
    measured = {"full": scores(1, 0.0), "without hands": scores(2, 1.0)}
    figures = {name: {"frames": len(s.frames), **{n: s.value(n) for n in s.names()}} for name, s in measured.items()}
    text = tables.markdown(figures, tables.effects(measured, rows), rows, {"without hands": "because"})
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    assert "not measured" in lines["Setting II"] and "because" in lines["without hands"]
    (tmp_path / "why.toml").write_text("'Setting III' = 'no such row'\n")
    with pytest.raises(InputError, match="Setting III"):
        tables.read_why(tmp_path / "why.toml", rows)
    assert tables.read_why(tmp_path / "missing.toml", rows) == {}


def test_sheet_and_video_are_whole_and_small(clip: Path, tmp_path: Path) -> None:
    import av

    (part,) = held_out([clip])
    truth = np.stack([part.clip.frames[i] for i in part.indices])
    chosen = [(p, i, truth[i]) for p, i in picked([part])]
    assert len({i for _, i, _ in chosen}) == 6
    whole = sheet(chosen)
    assert write_jpeg(whole, tmp_path / "sheet.jpg", 60_000) == (tmp_path / "sheet.jpg").stat().st_size <= 60_000
    film = side_by_side([(part, truth)], seconds=0.4)
    assert len(film) == 10 and np.array_equal(film[0][:, :SIZE], film[0][:, SIZE:])
    assert write_mp4(film, 25.0, tmp_path / "film.mp4") <= 500_000
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10
    assert not list(tmp_path.glob(".*.part"))


def test_what_is_recorded_names_no_folder_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "/opt/bin/liveanchor",
        "bench",
        "quality",
        "/data/noah",
        "--row",
        "Setting I=/data/one",
        "--out",
        "bench/results",
    ]
    monkeypatch.setattr("sys.argv", words)
    said = record()
    assert said["command"] == "liveanchor bench quality noah --row 'Setting I=one' --out bench/results"
    assert {"commit", "versions", "machine"} <= said.keys()


def test_wrong_orders_are_one_line(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(InputError, match="Setting I"):
        run(Order((clip,), rows={"Setting V": tmp_path}, out=tmp_path / "out"))
    text = (clip / "clip.toml").read_text().replace("talk = [[8, 24]]", "")
    (clip / "clip.toml").write_text(text)
    with pytest.raises(InputError, match="held_out"):
        run(Order((clip,), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    said = CliRunner().invoke(app, ["bench", "quality", str(clip), "--row", "Setting I"])
    assert isinstance(said.exception, InputError)


@pytest.mark.slow
def test_the_whole_run_on_a_small_avatar(exported: Path, clip: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "other")
    order = Order(
        (clip,), exported, {"Setting I": tmp_path / "other"}, out=tmp_path / "out", runs=tmp_path / "runs",
        recipe=replace(RECIPE, steps=2), precision="f32",
    )  # fmt: skip
    result = run(order)
    stored = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert stored["frames"] == {"talk": 16} and stored["commit"] == result["commit"] and stored["seed"] == 0
    assert set(stored["rows"]) == {"full", "Setting I", *order.variants}
    # the same weights from another folder paint the same; frames alone are what this avatar paints anyway
    assert stored["rows"]["Setting I"] == stored["rows"]["full"] == stored["rows"]["without temporal denoising"]
    # what is left out is missed where the mesh's face is, which is not where this clip's square says
    looks = [stored["rows"][name]["change_error"] for name in ("full", "without face enhancement")]
    assert looks[0] != looks[1]
    text = (tmp_path / "out" / "quality.md").read_text()
    assert "not comparable with published FID" in text and "Setting II | not measured" in text
    assert str(tmp_path) not in text + json.dumps(stored)
    run(order)
    again = json.loads((tmp_path / "out" / "quality.json").read_text())  # stored, what is missing equals itself
    assert (again["rows"], again["parts"]) == (stored["rows"], stored["parts"])
    shutil.rmtree(tmp_path / "other")  # its row is kept
    run(replace(order, rows={}, variants=(), keep=tmp_path / "out" / "quality.json"))
    kept = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert kept["rows"]["Setting I"] == stored["rows"]["Setting I"] | {"judged_at": stored["commit"]}
    assert kept["effects"]["Setting I"] == stored["effects"]["Setting I"]
    assert "judged_at" not in kept["rows"]["full"]
    text = (tmp_path / "out" / "quality.md").read_text()
    assert f"| Setting I | 16, judged at {stored['commit']} |" in text
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(InputError, match="an earlier quality"):
        run(replace(order, keep=tmp_path / "broken.json"))


def test_the_part_of_a_row_is_judged_on_the_frames_that_it_shares(clip: Path) -> None:
    parts: list[Part] = held_out([clip], most=5)
    assert len(parts[0]) == 5
    a, b = scores(1, 0.0, frames=60), scores(1, 1.0, frames=30)
    e = tables.effect("psnr_person", b, a)
    assert e.value - e.other == pytest.approx(1.0) and e.error < 1e-9


def test_a_look_takes_nothing_from_the_next() -> None:
    class Brighter:
        """A pass that, as the engine's do, takes its crops off the work."""

        def __init__(self, name: str, by: int) -> None:
            self.name, self.by = name, by

        def __call__(self, work: Work) -> list[Work]:
            if work.crops.pop(self.name, None) is not None and work.image is not None:
                work.image += np.uint8(self.by)
            return [work]

    pose = PoseFrame(0, np.zeros(165, np.float32), np.zeros(100, np.float32), np.zeros(3, np.float32))
    crops = {name: Seen(np.zeros((1, 2, 3)), np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4))) for name in AGAIN}
    decoded = [Work(0, 0, pose, crops=crops, image=np.zeros((2, 2, 3), np.uint8))]
    engine = SimpleNamespace(stages=(Brighter("hands", 1), Brighter("face", 2)))
    painter = Painter(Path(), engine, 0)  # type: ignore[arg-type]
    looks = [frozenset[str](), frozenset({"face"}), frozenset({"hands"}), frozenset[str]()]
    assert [int(painter.finish(decoded, without).max()) for without in looks] == [3, 1, 2, 3]
