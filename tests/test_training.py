"""Training: the loop resumes exactly, stages learn what a small clip shows, and data that is broken says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_avatar import FRAMES, MINI, SIZE, write_clip
from torch import Tensor, nn

from engine.errors import InputError
from engine.networks.autoencoder import Autoencoder16
from engine.networks.configs import CONFIGS
from engine.steps import Schedule
from engine.training import checkpoint, loop
from engine.training.dataset import Clip, Observation, observe
from engine.training.frames import Frames, crop_corner, cut_weight, region_weights, to_picture, to_pixels
from engine.training.losses import change_loss, picture_loss, psnr, ssim_map
from engine.training.people import People
from engine.training.recipes import TINY, Plan
from engine.training.stages.body import LAST, BodyStage, Drawer, noised
from engine.training.train import train


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "mini", MINI)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("data") / "square")


def run(stage: str, clip: Path, runs: Path, steps: int, **options: Any) -> nn.ModuleDict:
    options = {"batch": 2, "held_out": 2, "threads": 1, "compiled": False, "show": False} | options
    return train(stage, [clip], runs, config="mini", steps=steps, **options)


def rows(runs: Path, stage: str) -> list[dict[str, Any]]:
    """What the log says of steps."""
    lines = (runs / stage / "log.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def losses(runs: Path, stage: str) -> list[float]:
    return [row["loss"] for row in rows(runs, stage)]


class Line:
    """A stage of one weight: fit y = 3 x. It can stop as if killed."""

    name = "line"

    def __init__(self, killed_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.modules = nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(1, 4, 1), nn.Dropout(0.2), nn.Conv2d(4, 1, 1))})
        self.killed_at, self.calls = killed_at, 0

    def batch(self, rng: np.random.Generator, progress: float) -> Tensor:
        return torch.from_numpy(rng.standard_normal((8, 1, 2, 2), np.float32))

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        if self.calls == self.killed_at:
            raise KeyboardInterrupt
        self.calls += 1
        x = batch + 0.1 * torch.randn(batch.shape)
        return ((self.modules["net"](x) - 3 * x) ** 2).mean(), {}

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        return {"bias": float(average["net"][0].bias.abs().sum())}, np.zeros((4, 4, 3), np.uint8)  # type: ignore[index, union-attr, arg-type]


RECIPE = loop.Recipe(steps=6, save_seconds=0.0, precision="f32", warm_up=2)


def test_a_killed_run_ends_in_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole = loop.run(Line(), tmp_path / "whole", RECIPE, show=False)
    with pytest.raises(KeyboardInterrupt):
        loop.run(Line(killed_at=3), tmp_path / "killed", RECIPE, show=False)
    resumed = loop.run(Line(), tmp_path / "killed", RECIPE, show=False)
    for key, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], weight), key
    a, b = (checkpoint.read(tmp_path / run / checkpoint.FILE) for run in ("whole", "killed"))
    assert a["step"] == b["step"] == 6
    assert all(torch.equal(a["modules"][k], b["modules"][k]) for k in a["modules"])


def test_a_real_stage_resumes_exactly(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.training.stages.autoencoder import AutoencoderStage

    whole = run("autoencoder", clip, tmp_path / "whole", 4)
    plain, calls = AutoencoderStage.loss, 0

    def killed(self: AutoencoderStage, batch: Any) -> tuple[Tensor, dict[str, float]]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return plain(self, batch)

    often = Plan(loop.Recipe(rate=2e-3, save_seconds=0.0))
    monkeypatch.setitem(TINY, "autoencoder", often)
    monkeypatch.setattr(AutoencoderStage, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        run("autoencoder", clip, tmp_path / "killed", 4)
    monkeypatch.setattr(AutoencoderStage, "loss", plain)
    resumed = run("autoencoder", clip, tmp_path / "killed", 4)
    for key, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], weight), key


def test_a_checkpoint_that_is_half_or_of_another_stage_is_one_line(tmp_path: Path) -> None:
    loop.run(Line(), tmp_path / "line", RECIPE, show=False)
    file = tmp_path / "line" / checkpoint.FILE
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="a whole checkpoint"):
        loop.run(Line(), tmp_path / "line", RECIPE, show=False)
    file.write_bytes(whole)
    other = Line()
    other.modules = nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(1, 5, 1), nn.Dropout(), nn.Conv2d(5, 1, 1))})
    with pytest.raises(InputError, match="those of this stage's networks"):
        loop.run(other, tmp_path / "line", RECIPE, show=False)


def test_the_rate_warms_up_and_falls() -> None:
    recipe = loop.Recipe(warm_up=10, final=0.1)
    assert loop.rate_at(0, 0.0, recipe) == pytest.approx(0.1)
    assert loop.rate_at(10, 0.0, recipe) == pytest.approx(1.0)
    assert loop.rate_at(99, 1.0, recipe) == pytest.approx(0.1)


def test_the_autoencoder_learns_the_clip(clip: Path, tmp_path: Path) -> None:
    run("autoencoder", clip, tmp_path, 101)
    falling = losses(tmp_path, "autoencoder")
    assert falling[-1] < 0.75 * falling[0]
    assert (tmp_path / "autoencoder" / "validation.png").exists()


def test_the_stages_follow_each_other(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a checkpoint of the stage autoencoder"):
        run("pretrain", clip, tmp_path, 1)
    run("autoencoder", clip, tmp_path, 2)
    pretrained = run("pretrain", clip, tmp_path, 63)
    falling = [row["loss"] for row in rows(tmp_path, "pretrain") if row["progress"] < 1 / 3 and "pixels" not in row]
    assert falling[-1] < 0.9 * falling[0]  # on latents, before the pixels
    finetuned = run("finetune", clip, tmp_path, 2)
    assert "pixels" in rows(tmp_path, "finetune")[0]  # what knows the person goes on with the pixels
    face, hands = run("face", clip, tmp_path, 2), run("hands", clip, tmp_path, 3)
    assert {name for name, _ in pretrained.named_children()} == {"body", "image_encoder", "decoder"}
    assert {name for name, _ in finetuned.named_children()} == {"body", "image_encoder", "decoder"}
    assert {name for name, _ in face.named_children()} == {"head", "head_decoder"}
    assert {name for name, _ in hands.named_children()} == {"hand", "hand_decoder"}


def test_the_last_timestep_is_noise_alone() -> None:
    clean, noise = torch.full((2, 1, 2, 2), 7.0), torch.randn(2, 1, 2, 2)
    out = noised(clean, np.array([LAST, 0]), noise, Schedule())
    assert torch.equal(out[0], noise[0])
    assert (out[1] - 7).abs().max() < 1


def test_windows_are_near_frames_in_order_under_one_noise(clip: Path) -> None:
    frames = Frames.train([Clip.open(clip)])
    drawer = Drawer(frames, torch.zeros(len(frames), 2, 4, 4), batch=8, last=1.0, windows=1.0)
    seen = set()
    for seed in range(16):
        torch.manual_seed(seed)
        draw = drawer(np.random.default_rng(seed))
        seen.add((draw.frames, draw.causal))
        assert len(draw.at) == len(draw.timestep) == 8
        assert (draw.timestep == LAST).all()
        windows = draw.at.reshape(-1, draw.frames)
        # A missing frame is stood in for by the newest: in order but for those.
        assert all((np.diff(w[w != w[-1]]) > 0).all() and (w <= w[-1]).all() for w in windows)
        noises = draw.noisy.reshape(len(windows), draw.frames, *draw.noisy.shape[1:])
        assert torch.equal(noises, noises[:, :1].expand_as(noises))
        assert not torch.equal(noises[0], noises[-1])
    assert seen == {(2, False), (2, True), (4, False), (4, True)}


def test_frames_know_their_clip_and_what_came_before(clip: Path) -> None:
    opened = Clip.open(clip)
    frames = Frames.train([opened, opened])
    assert len(frames) == 2 * (FRAMES - 2)
    first_of_second = FRAMES - 2
    for seed in range(8):
        rng = np.random.default_rng(seed)
        assert frames.window(0, 2, rng).tolist() == [0, 0]
        assert frames.window(first_of_second, 2, rng).tolist() == [first_of_second] * 2  # not the other clip's last
        before, newest = frames.window(5, 2, rng)
        assert 3 <= before <= 4 and newest == 5
    assert len(Frames.held_out([opened], 5)) == 2


def test_an_error_that_stands_still_does_not_flicker() -> None:
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(6, 3, 8, 8, generator=rng)  # two windows of three frames
    weight = torch.ones(6, 1, 8, 8)
    still = torch.rand(2, 1, 3, 8, 8, generator=rng).expand(2, 3, 3, 8, 8).flatten(0, 1)
    assert float(change_loss(truth + still, truth, weight, 3)) == pytest.approx(0, abs=1e-6)
    flicker = 0.1 * torch.tensor([0.0, 1, 0, 5, 6, 5])[:, None, None, None]
    assert float(change_loss(truth + flicker, truth, weight, 3)) == pytest.approx(0.1, abs=1e-6)
    weight[1] = 0  # a frame whose pixels do not count takes both its changes along
    assert float(change_loss(truth + flicker * weight.logical_not(), truth, weight, 3)) == pytest.approx(0, abs=1e-6)


def test_the_crops_of_a_window_stand_still(clip: Path) -> None:
    config, clips = MINI, [Clip.open(clip)]
    torch.manual_seed(0)
    vae = {f"vae.{k}": v for k, v in Autoencoder16(**(config.vae or {})).state_dict().items()}
    people = People.train(clips)
    stage = BodyStage("finetune", config, people, people, vae, batch=4, on_latents=0.0)  # type: ignore[arg-type]
    seen = set()
    for seed in range(12):
        batch = stage.batch(np.random.default_rng(seed), 0.5)
        assert batch.cuts is not None and batch.cuts.frames == batch.draw.frames
        where = np.array(batch.cuts.corners).reshape(-1, batch.draw.frames, 3)
        assert (where[:, :, 1:] == where[:, :1, 1:]).all() and (np.diff(where[:, :, 0]) == 1).all()
        loss, parts = stage.loss(batch)
        assert torch.isfinite(loss) and set(parts) == {"pixels", "latents"}
        seen.add(batch.draw.frames)
    assert seen == {1, 2, 4}


def test_pixels_come_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    assert np.array_equal(to_pixels(to_picture(pixels)), pixels)


def test_crops_lie_on_the_latents_grid_and_their_cut_sides_do_not_count() -> None:
    rng = np.random.default_rng(0)
    corners = {crop_corner(rng, None, 64, 128) for _ in range(200)}
    assert all(x % 16 == y % 16 == 0 and 0 <= x <= 64 and 0 <= y <= 64 for x, y in corners)
    assert {0, 64} <= {x for x, _ in corners}
    weight = cut_weight(0, 64, 64, 128, margin=8)
    assert weight[:8].sum() == 0  # its upper side is cut
    assert weight[-1, 0] == 1  # the picture's own corner
    assert weight[:, -8:].sum() == 0


def test_the_heavier_region_wins() -> None:
    boxes = np.array([[[0, 0, 8, 8], [0, 0, 4, 4], [2, 2, 6, 6], [0, 0, 0, 0]]], np.float32)
    weight = region_weights(boxes, 16, head=5, hand=3, person=2, rest=1)[0, 0]
    assert (weight[0, 0], weight[3, 3], weight[5, 5], weight[7, 7], weight[9, 9]) == (5, 5, 3, 2, 1)


def test_losses_know_equal_from_different() -> None:
    a = torch.rand(1, 3, 32, 32) * 2 - 1
    weight = torch.ones(1, 1, 32, 32)
    assert picture_loss(a, a, weight) < 1e-5
    assert picture_loss(a + 0.1, a, weight) > 0.05
    assert ssim_map(a, a).mean() == pytest.approx(1.0, abs=1e-4)
    assert ssim_map(a, torch.rand(1, 3, 32, 32) * 2 - 1).mean().abs() < 0.1
    assert psnr(a * 0, a * 0 + 0.2) == pytest.approx(20.0, abs=0.01)
    assert picture_loss(a + torch.randn_like(a), a, weight * 0) < 1e-5  # nothing counts


def test_observing_fills_what_stages_read(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    for file in (folder / "observed").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="made by `observe`"):
        Clip.open(folder)

    def observer(i: int) -> Observation:
        condition = np.full((SIZE, SIZE, 3), i, np.uint8)
        boxes, transform = np.full((4, 4), i, np.float32), np.full((2, 3), i, np.float32)
        hands, hand_mask = np.full((2, 2, 3), i, np.float32), np.full((SIZE, SIZE), i % 3, np.uint8)
        return Observation(condition, boxes, transform, np.full((SIZE, SIZE), i % 2 == 0), hands, hand_mask)

    observe(folder, observer)
    clip = Clip.open(folder)
    assert [clip.condition[i, 0, 0, 0] for i in range(FRAMES)] == list(range(FRAMES))
    assert [clip.face_mask[i, 0, 0] for i in (0, 1)] == [255, 0]
    assert [clip.hand_mask[i, 0, 0] for i in range(4)] == [0, 1, 2, 0]
    assert (clip.hands[:, 1, 1, 2] == np.arange(FRAMES)).all()


@pytest.mark.parametrize("broken", ["short", "splits", "half"])
def test_clips_whose_files_do_not_fit_are_refused(tmp_path: Path, broken: str) -> None:
    folder = write_clip(tmp_path / "clip")
    if broken == "short":
        np.save(folder / "frames.npy", np.load(folder / "frames.npy")[:-1])
        match = r"splits, end: expected ranges \[first, end\) within 9 frames"
    elif broken == "splits":
        text = (folder / "clip.toml").read_text()
        (folder / "clip.toml").write_text(text.replace(f"{FRAMES}]", "99]"))
        match = "splits"
    else:
        file = folder / "observed" / "condition.npy"
        file.write_bytes(file.read_bytes()[:-10])
        match = "condition.npy"
    with pytest.raises(InputError, match=match):
        Clip.open(folder)
