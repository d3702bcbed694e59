"""`liveanchor train`: data of several people, starts from an avatar, pieces of a run, processes, and what it says when it cannot."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_avatar import FRAMES, MINI, random_networks, write_avatar, write_clip
from test_cli import run as command
from torch import Tensor, nn

from engine import toml
from engine.errors import InputError
from engine.networks.configs import CONFIGS
from engine.training import checkpoint, loop
from engine.training.batches import CPU, Batches
from engine.training.cli import STAGES, app
from engine.training.dataset import Clip, ClipFields
from engine.training.observer import mesh_observer
from engine.training.people import People
from engine.training.perturb import Perturbed
from engine.training.precision import Precision, mixed, settled
from engine.training.recipes import TINY
from engine.training.train import train
from engine.training.weights import gathered, started, warm_start

STILL = {"held_out": 2, "threads": 1, "compiled": False, "show": False, "config": "mini", "batch": 2}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "mini", MINI)


def person(folder: Path, identity: str, frames: int = FRAMES) -> Path:
    """A clip of somebody."""
    write_clip(folder, frames)
    fields = toml.read(folder / "clip.toml", ClipFields)
    (folder / "clip.toml").write_text(toml.dumps(replace(fields, identity=identity)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two clips of ada, one of noah."""
    root = tmp_path_factory.mktemp("people")
    return [person(root / "ada", "ada"), person(root / "noah", "noah", 30), person(root / "ada2", "ada", 4)]


def people(clips: list[Path]) -> People:
    frames = People.train([Clip.open(clip) for clip in clips])
    assert isinstance(frames, People)
    return frames


# --- whom a stage sees


def test_everybody_is_drawn_equally_often_and_refers_to_themselves(clips: list[Path]) -> None:
    frames, rng = people(clips), np.random.default_rng(0)
    at = frames.draw(rng, 2000)
    share = np.mean([frames.identity(i) == "ada" for i in at])
    assert 0.45 < share < 0.55  # of 10 frames against 28
    assert len(set(at)) == len(frames)
    references = frames.references(at, rng)
    assert [frames.identity(i) for i in references] == [frames.identity(i) for i in at]
    assert (references != at).mean() > 0.5
    assert {frames.index[i, 0] for i in references} == {0, 1, 2}


def test_without_its_background_a_picture_is_black_but_for_the_person(clips: list[Path]) -> None:
    frames = people(clips)
    whole, cut, matte = frames.pictures([3]), frames.without_background().pictures([3]), frames.mattes([3])
    person = matte.expand_as(whole) == 1
    assert torch.equal(cut[person], whole[person])
    assert (cut[~person] == -1).all()
    assert (whole[~person] != -1).any()


def test_a_stage_keeps_the_background_where_it_is_asked_to(clips: list[Path], tmp_path: Path) -> None:
    write_avatar(tmp_path)
    losses = {}
    for background in (None, False, True):
        runs = tmp_path / str(background)
        train("pretrain", clips, runs, avatar=tmp_path / "avatar", steps=1, background=background, **STILL)  # type: ignore[arg-type]
        losses[background] = json.loads((runs / "pretrain" / "log.jsonl").read_text().splitlines()[0])["loss"]
    assert losses[None] == losses[False] != losses[True]


def test_perturbed_conditions_are_those_of_the_clip_moved_a_little(tmp_path: Path) -> None:
    from engine.clips import write_clip as write_motion
    from engine.pose import PoseClip

    folder = person(tmp_path / "still", "still", 4)
    write_motion(folder / "clip.npz", PoseClip(25.0, *(np.zeros((4, n), np.float32) for n in (165, 100, 3))))
    clip = Clip.open(folder)
    frames, at = people([folder]), np.array([0, 1, 1])
    seen = mesh_observer(folder, clip.fields, 4)(0).condition
    assert torch.equal(
        (Perturbed(frames, 0.0)(at, np.random.default_rng(0))[0] * 255).round(), torch.from_numpy(seen).permute(2, 0, 1)
    )
    alone, together = (Perturbed(frames, 0.05, threads)(at, np.random.default_rng(1)) for threads in (1, 3))
    assert torch.equal(alone, together)  # a function of rng, however many threads draw it
    assert not torch.equal(alone[1], alone[2])
    moved = float((alone[0] * 255 - torch.from_numpy(seen).permute(2, 0, 1)).abs().mean())
    further = Perturbed(frames, 0.2)(at, np.random.default_rng(1))[0]
    assert 0 < moved < float((further * 255 - torch.from_numpy(seen).permute(2, 0, 1)).abs().mean())


# --- what a stage starts from


def test_weights_of_an_avatar_and_what_it_lacks(tmp_path: Path) -> None:
    write_avatar(tmp_path)
    weights = gathered(tmp_path / "runs", (), tmp_path / "avatar")
    networks = random_networks(seed=1)
    modules = nn.ModuleDict({"body": networks.body, "decoder": networks.vae.decoder})
    assert started(modules, warm_start(modules, weights)) == "goes on from trained weights"
    for key, value in modules.state_dict().items():
        assert torch.equal(value, weights[key]), key
    lacking = {key: value for key, value in weights.items() if not key.startswith("body.unet.mid_block.attentions")}
    line = started(modules, warm_start(modules, lacking))
    assert line.endswith(" start fresh: body.unet.mid_block.attentions")
    assert started(modules, warm_start(modules, {})) == "all weights start fresh"


def test_a_stage_goes_on_from_an_avatar_and_then_from_its_own_checkpoint(clips: list[Path], tmp_path: Path) -> None:
    write_avatar(tmp_path)
    before = gathered(tmp_path, (), tmp_path / "avatar")
    said: list[str] = []
    options = {**STILL, "avatar": tmp_path / "avatar", "tell": said.append, "rate": 1e-6, "precision": "f32"}
    average = train("finetune", clips[:1], tmp_path / "runs", steps=1, **options)  # type: ignore[arg-type]
    assert said[0] == "finetune: goes on from trained weights"
    apart = max(float((before[key] - value).abs().max()) for key, value in average.state_dict().items())
    assert 0 < apart < 1e-5
    assert (tmp_path / "runs" / "finetune" / "validation.png").exists()
    said.clear()
    train("finetune", clips[:1], tmp_path / "runs", steps=1, **options)  # type: ignore[arg-type]
    assert said == [f"finetune: done after 1 steps, {said[0].split(', ')[1]}"]


def test_a_decoder_of_the_autoencoder_in_RUNS_replaces_the_avatars(tmp_path: Path) -> None:
    write_avatar(tmp_path)
    vae = random_networks(seed=5).vae
    (tmp_path / "runs" / "autoencoder").mkdir(parents=True)
    average = nn.ModuleDict({"vae": vae}).state_dict()
    torch.save({"average": average}, tmp_path / "runs" / "autoencoder" / checkpoint.FILE)
    del average["vae.decoder.conv_out.bias"]  # a decoder with a part less: nothing of the avatar's fills it up
    torch.save({"average": average}, tmp_path / "runs" / "autoencoder" / checkpoint.FILE)
    assert "vae.decoder.conv_out.bias" not in gathered(tmp_path / "runs", ("autoencoder",), tmp_path / "avatar")
    torch.save(
        {"average": nn.ModuleDict({"vae": vae}).state_dict()}, tmp_path / "runs" / "autoencoder" / checkpoint.FILE
    )
    weights = gathered(tmp_path / "runs", ("autoencoder",), tmp_path / "avatar")
    for key, value in vae.decoder.state_dict().items():
        assert torch.equal(weights[f"decoder.{key}"], value)


# --- how a run goes


@dataclass(frozen=True)
class Samples:
    x: Tensor


class Slope:
    """Fit y = 3 x by one weight; drawn by numbered batches. Slow where `seconds` are given."""

    name = "slope"

    def __init__(self, seconds: float = 0.0) -> None:
        self.modules = nn.ModuleDict({"net": nn.Conv2d(1, 1, 1, bias=False)})
        nn.init.ones_(self.modules["net"].weight)
        self.seconds, self.drawn = seconds, 0

    def batch(self, rng: np.random.Generator, progress: float) -> Samples:
        self.drawn += 1
        return Samples(torch.from_numpy(rng.standard_normal((4, 1, 2, 2), np.float32)))

    def loss(self, batch: Samples) -> tuple[Tensor, dict[str, float]]:
        time.sleep(self.seconds)
        return ((self.modules["net"](batch.x) - 3 * batch.x) ** 2).mean(), {}

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        return {"slope": float(average["net"].weight.sum())}, np.zeros((4, 4, 3), np.uint8)  # type: ignore[arg-type]


RECIPE = loop.Recipe(steps=8, warm_up=2, precision="f32", save_seconds=0.0)


def weight(folder: Path) -> tuple[int, Tensor]:
    whole = checkpoint.read(folder / checkpoint.FILE)
    return whole["step"], whole["average"]["net.weight"]


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that goes on by so much whenever it is read."""
    return (i * seconds for i in count()).__next__


def test_batches_are_drawn_in_order_ahead_and_their_errors_arrive() -> None:
    drawn: list[tuple[int, int]] = []

    def draw(step: int, part: int) -> Samples:
        drawn.append((step, part))
        if step == 5:
            raise InputError("clip", "frame", "a picture", "none")
        return Samples(torch.tensor([step]))

    with Batches(draw, 3, 2, CPU) as batches:
        assert [int(next(batches).x) for _ in range(4)] == [3, 3, 4, 4]
        with pytest.raises(InputError, match="a picture"):
            next(batches)
    assert drawn == [(3, 0), (3, 1), (4, 0), (4, 1), (5, 0)]


def test_a_run_in_pieces_is_the_run(tmp_path: Path) -> None:
    loop.run(Slope(), tmp_path / "whole", RECIPE, show=False)
    piece, said = replace(RECIPE, minutes=1.0), []
    for _ in range(10):
        loop.run(Slope(), tmp_path / "pieces", piece, clock=ticking(10.0), show=False, tell=said.append)
        if "done" in said[-1]:
            break
    assert 1 < len(said) < 10
    assert all("of 8" in line and "the same command goes on" in line for line in said[:-1])
    assert weight(tmp_path / "whole")[0] == weight(tmp_path / "pieces")[0] == 8
    assert torch.equal(weight(tmp_path / "whole")[1], weight(tmp_path / "pieces")[1])


def test_without_steps_the_minutes_are_the_run(tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=None, minutes=2.0)
    loop.run(Slope(), tmp_path, recipe, clock=ticking(10.0), show=False)
    steps = weight(tmp_path)[0]
    loop.run(Slope(), tmp_path, recipe, clock=ticking(10.0), show=False)
    assert weight(tmp_path)[0] == steps > 2


def slow_run(folder: Path) -> None:
    loop.run(Slope(0.05), folder, replace(RECIPE, steps=60), show=False)


def test_kill_9_costs_nothing_that_a_checkpoint_holds(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=slow_run, args=(tmp_path / "killed",))
    process.start()
    while not (tmp_path / "killed" / checkpoint.FILE).exists() or weight(tmp_path / "killed")[0] < 3:
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    assert 3 <= weight(tmp_path / "killed")[0] < 60
    recipe = replace(RECIPE, steps=60)
    loop.run(Slope(), tmp_path / "killed", recipe, show=False)
    loop.run(Slope(), tmp_path / "whole", recipe, show=False)
    assert weight(tmp_path / "killed")[0] == weight(tmp_path / "whole")[0] == 60
    assert torch.equal(weight(tmp_path / "killed")[1], weight(tmp_path / "whole")[1])


def test_gradients_of_accumulated_batches_are_averaged(tmp_path: Path) -> None:
    """Of 3 parts: the gradient of mean((w x - 3 x)^2) at w = 1 is -4 mean(x^2)."""
    stage, accelerator = Slope(), loop.machine("cpu")
    modules = stage.modules
    optimiser, scaler = torch.optim.SGD(modules.parameters(), 0.0), torch.amp.GradScaler("cpu", enabled=False)
    learnt = checkpoint.Learnt(modules, nn.ModuleDict({"net": nn.Conv2d(1, 1, 1, bias=False)}), optimiser, scaler, "")
    parts = [stage.batch(np.random.default_rng(i), 0.0) for i in range(3)]
    with Batches(lambda step, part: parts[part], 0, 3, CPU) as batches:
        learner = loop.Learner(stage, CPU, "f32")
        loss, figures = loop.learn(learner, learnt, replace(RECIPE, accumulate=3, clip=100.0), 0, batches, accelerator)
    squares = float(torch.cat([part.x for part in parts]).square().mean())
    assert figures["norm"] == pytest.approx(4 * squares, rel=1e-5)
    assert loss == pytest.approx(4 * squares, rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_halved_precision_learns_and_resumes(tmp_path: Path, precision: Precision) -> None:
    recipe = replace(RECIPE, precision=precision, rate=0.05)
    loop.run(Slope(), tmp_path, recipe, show=False)
    longer = loop.run(Slope(), tmp_path, replace(recipe, steps=40), show=False)
    assert float(longer["net"].weight) > 1.3  # type: ignore[arg-type]
    assert longer["net"].weight.dtype == torch.float32
    assert weight(tmp_path)[0] == 40


def test_what_a_run_tells_is_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop.run(Slope(), tmp_path, replace(RECIPE, steps=45), show=False)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 21, 41]
    assert board.Scalars("held_out/slope")[-1].step == 45
    assert board.Images("held_out")[-1].width == 4


@pytest.mark.parametrize("file", [".checkpoint.pt.part", "log.jsonl"])
def test_a_full_disc_is_one_line_and_the_last_checkpoint_stays(tmp_path: Path, file: str) -> None:
    loop.run(Slope(), tmp_path, RECIPE, show=False)
    before = (tmp_path / checkpoint.FILE).read_bytes()
    (tmp_path / file).unlink(missing_ok=True)
    (tmp_path / file).symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"room on the disc, got No space left on device"):
        loop.run(
            Slope(), tmp_path, replace(RECIPE, steps=30, save_seconds=1e9 if file == "log.jsonl" else 0), show=False
        )
    assert (tmp_path / checkpoint.FILE).read_bytes() == before
    assert checkpoint.read(tmp_path / checkpoint.FILE)["step"] == 8


@pytest.mark.slow
def test_two_processes_learn_together(tmp_path: Path) -> None:
    """Both ranks end in the same weights, which one process alone would not have come to."""
    clip, script = write_clip(tmp_path / "square", 6), Path(__file__).with_name("two_processes.py")
    root = script.parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script), str(clip), str(tmp_path)],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert done.stdout.count("done after 3 steps") == 1
    options = {"batch": 1, "held_out": 1, "precision": "f32", "threads": 1, "compiled": False, "show": False}
    alone = train("autoencoder", [clip], tmp_path / "alone", steps=3, device="cpu", **options)  # type: ignore[arg-type]
    assert any(not torch.equal(first[key], value) for key, value in alone.named_parameters())


# --- what it says


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Run `liveanchor train ARGUMENTS`: its exit status and its last line."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str | Path) -> tuple[int, str]:
        status, _, err = command(capsys, monkeypatch, "train", *map(str, arguments))
        return status, err.strip().splitlines()[-1] if err.strip() else ""

    yield run


def test_every_stage_of_training_has_a_command() -> None:
    assert {command.name or command.callback.__name__ for command in app.registered_commands} >= set(TINY)  # type: ignore[union-attr]


def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for name in (*STAGES, "observe", "bundle"):
        status, out, _ = command(capsys, monkeypatch, "train", name, "--help")
        assert status == 0
        assert f"liveanchor train {name}" in out.partition("Example")[2]


def test_bad_orders_are_one_line(say: Callable[..., Any], clips: list[Path], tmp_path: Path) -> None:
    ada, noah, _ = clips
    runs = ("--runs", tmp_path, "--steps", "2", "--device", "cpu")
    assert say("pretrain", ada) == (1, "liveanchor: train pretrain: length: expected --minutes or --steps, got neither")
    assert say("paint", ada)[0] == 2
    assert "clips of finetune: expected one identity, got ada, noah" in say("finetune", ada, noah, *runs)[1]
    assert (
        "expected a checkpoint of the stage autoencoder, or --from an avatar, got neither"
        in say("pretrain", ada, *runs)[1]
    )
    assert "clip.toml: file: expected a TOML file, got no such file" in say("face", tmp_path / "nowhere", *runs)[1]
    assert (
        "one of the stages pretrain and finetune, got autoencoder"
        in say("autoencoder", ada, "--perturb", "0.1", *runs)[1]
    )
    assert f"{tmp_path}/vae: network: expected" in say("finetune", ada, "--from", tmp_path, *runs)[1]
    if not torch.cuda.is_available():
        assert "a GPU that torch can use, got none" in say("finetune", ada, *runs, "--device", "cuda")[1]
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_clips_that_do_not_suit_a_stage_are_one_line(
    say: Callable[..., Any], clips: list[Path], tmp_path: Path
) -> None:
    runs = ("--runs", tmp_path / "runs", "--steps", "2", "--device", "cpu")
    larger = write_clip(tmp_path / "larger", 4, 160)
    assert "larger/clip.toml: size: expected 128, as in" in say("pretrain", clips[0], larger, *runs)[1]
    bare = person(tmp_path / "bare", "bare", 4)
    (bare / "matte.npy").unlink()
    line = say("pretrain", clips[0], bare, *runs)[1]
    assert "bare: matte.npy: expected the person's coverage of each picture, got no such file" in line
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_of_another_configuration_is_one_line(clips: list[Path], tmp_path: Path) -> None:
    train("autoencoder", clips, tmp_path, steps=1, **STILL)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"autoencoder/checkpoint.pt: config: expected tiny, got mini"):
        train("pretrain", clips, tmp_path, steps=1, **{**STILL, "config": "tiny"})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"autoencoder/checkpoint.pt: config: expected tiny, got mini"):
        train("autoencoder", clips, tmp_path, steps=1, **{**STILL, "config": "tiny"})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"config: expected tiny \| sd15 \| mini, got huge"):
        train("autoencoder", clips, tmp_path, steps=1, **{**STILL, "config": "huge"})  # type: ignore[arg-type]


def test_the_faster_arithmetic_is_taken_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for able, expected in ((True, "bf16"), (False, "f32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"avx512_f": True, "avx512_bf16": able})
        assert settled("auto", CPU) == expected
        assert settled("bf16", CPU) == "bf16" and settled("f32", CPU) == "f32"
        with mixed("auto", CPU):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if able else torch.float32)
