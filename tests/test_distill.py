"""Consistency distillation: few steps of the student end where many of the teacher's do, guidance and windows included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from small_avatar import MINI, random_networks, write_avatar, write_clip
from torch import Tensor, nn

from engine import toml
from engine.avatar import FILE, Avatar
from engine.errors import InputError
from engine.networks.configs import CONFIGS
from engine.networks.diffusion import StructureGuided
from engine.noise import Noise
from engine.steps import Prediction
from engine.training import checkpoint, loop
from engine.training.bundle import write_bundle
from engine.training.consistency import Consistency, Distillation, Model, guided, pseudo_huber
from engine.training.dataset import Clip
from engine.training.people import People
from engine.training.recipes import TINY, Plan
from engine.training.stages.body import BodyStage, reference_tokens
from engine.training.stages.distill import DistillStage, Lesson
from engine.training.stages.pupil import Seen, model
from engine.training.train import train
from engine.training.weights import of_avatar, warm_start

MEAN, SPREAD = 0.8, 0.4  # of the toy's data: N(c * MEAN, SPREAD^2) for c = -1, 1
FRAMES = 1500
RECIPE = loop.Recipe(rate=0.05, decay=0.9, weight_decay=0.0, precision="f32", steps=300)


class Ideal(nn.Module):
    """Knows for every timestep what a network for N(mean * c, spread^2) would predict, which is linear: a z + b c."""

    def __init__(self, what: Consistency, mean: float, spread: float = SPREAD) -> None:
        super().__init__()
        alpha = what.schedule.alphas
        signal, sigma = alpha**0.5, (1 - alpha) ** 0.5
        slope = signal * spread**2 / (alpha * spread**2 + sigma**2)  # of E[z_0 | z_t]
        rows = np.stack([slope, mean * (1 - slope * signal)], axis=1)
        if what.prediction == "epsilon":
            rows = (np.array([1.0, 0.0]) - signal[:, None] * rows) / sigma[:, None]
        self.rows = nn.Embedding.from_pretrained(torch.from_numpy(rows.astype(np.float32)), freeze=False)

    def of(self, c: Tensor) -> Model:
        def predict(sample: Tensor, now: np.ndarray) -> Tensor:
            a, b = self.rows(torch.from_numpy(now)).T[:, :, None, None, None]
            return a * sample + b * c

        return predict


@dataclass(frozen=True)
class Draws:
    noisy: Tensor
    c: Tensor
    now: np.ndarray
    scale: Tensor


class Toy:
    """A stage whose teacher knows its data exactly; its unguided branch believes in data about 0."""

    name = "toy"

    def __init__(self, what: Consistency, guidance: float = 1.0) -> None:
        self.what, self.guidance = what, guidance
        self.modules = nn.ModuleDict({"net": Ideal(what, MEAN)})
        self.average = self.modules
        self.teacher, self.nobody = (Ideal(what, mean).requires_grad_(False) for mean in (MEAN, 0.0))
        self.timesteps = what.timesteps((1, 2, 4))

    def batch(self, rng: np.random.Generator, progress: float) -> Draws:
        n = 256
        c = torch.from_numpy(rng.choice((-1.0, 1.0), (n, 1, 1, 1)).astype(np.float32))
        clean, noise = torch.from_numpy(rng.standard_normal((2, n, 1, 1, 1), np.float32))
        now = self.timesteps[rng.integers(len(self.timesteps), size=n)]
        alpha = torch.from_numpy(self.what.schedule.alpha(now).astype(np.float32))[:, None, None, None]
        noisy = alpha.sqrt() * (MEAN * c + SPREAD * clean) + (1 - alpha).sqrt() * noise
        scale = torch.from_numpy((1 + (self.guidance - 1) * rng.uniform(0.9, 1.1, n)).astype(np.float32))
        return Draws(noisy, c, now, scale)

    def loss(self, batch: Draws) -> tuple[Tensor, dict[str, float]]:
        student, average = (modules["net"].of(batch.c) for modules in (self.modules, self.average))  # type: ignore[operator, union-attr]
        teacher = self.taught(batch.c, batch.scale)
        target = self.what.target(teacher, average, batch.noisy, batch.now)
        return pseudo_huber(self.what.estimate(student, batch.noisy, batch.now) - target).mean(), {}

    def taught(self, c: Tensor, scale: Tensor) -> Model:
        return guided(self.teacher.of(c), self.nobody.of(c), scale)

    def validate(self, average: nn.ModuleDict) -> tuple[dict[str, float], np.ndarray]:
        return {}, np.zeros((4, 4, 3), np.uint8)


def ends(what: Consistency, model: Model, count: int, rule: Literal["lcm", "ddim"] = "lcm") -> Tensor:
    return what.sampled(model, count, Noise((1, 1, 1), 0, "per-frame"), range(FRAMES), rule)


@pytest.mark.parametrize(("prediction", "guidance"), [("sample", 1.0), ("epsilon", 1.0), ("sample", 3.0)])
def test_one_two_and_four_steps_end_where_the_teachers_many_do(
    tmp_path: Path, prediction: Prediction, guidance: float
) -> None:
    what = Consistency(prediction=prediction, stride=50)
    toy = Toy(what, guidance)
    c = torch.ones(FRAMES, 1, 1, 1)
    many = ends(what, toy.taught(c, torch.full((FRAMES,), guidance)), 20, "ddim")
    assert many.mean() == pytest.approx(MEAN * guidance, abs=0.1)  # the toy is what it says
    assert many.std() == pytest.approx(SPREAD, abs=0.1)
    untrained = Ideal(what, MEAN).of(c)
    average = loop.run(toy, tmp_path, RECIPE, show=False)
    student = average["net"].of(c)  # type: ignore[operator, union-attr]
    # From one noise to one end, and, where frames are noised anew on the way, the same distribution.
    before, after = ((ends(what, model, 1) - many).abs().mean() for model in (untrained, student))
    assert after < 0.2 * before
    for count in (1, 2, 4):
        few = [ends(what, model, count) for model in (untrained, student)]
        off = [abs(e.mean() - many.mean()) + abs(e.std() - many.std()) for e in few]
        assert off[1] < 0.35 * off[0]


def test_half_of_the_draws_are_where_few_steps_pass() -> None:
    drawn = Consistency().timesteps((1, 2, 4))
    assert len(drawn) == 100
    assert {int(t) for t in drawn[:50]} == set(range(999, 0, -20))
    assert {int(t) for t in drawn[50:]} == {999, 759, 499, 259}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "mini", MINI)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip in `square`, and in `avatar` a person of random networks who knows an unconditional branch."""
    world = tmp_path_factory.mktemp("world")
    avatar = write_avatar(world)
    np.save(world / "avatar" / "nobody.npy", np.random.default_rng(1).standard_normal((1, 5, 32)).astype(np.float32))
    replace(avatar, appearance={**avatar.appearance, "unconditional": "nobody.npy"}).write(world / "avatar")
    return world


def a_stage(world: Path, before: dict[str, Tensor] | None = None, **options: Any) -> DistillStage:
    clips = [Clip.open(world / "square")]
    frames, judged = People.train(clips), People.held_out(clips, 2)
    assert isinstance(frames, People) and isinstance(judged, People)
    return DistillStage(MINI, frames, judged, before or of_avatar(world / "avatar"), Distillation(**options), batch=2)


def run(world: Path, runs: Path, steps: int, **options: Any) -> nn.ModuleDict:
    options = {"batch": 2, "held_out": 1, "threads": 1, "compiled": False, "show": False} | options
    return train(
        "distill",
        [world / "square"],
        runs,
        config="mini",
        avatar=world / "avatar",
        steps=steps,
        device="cpu",
        **options,
    )


def of_two_kinds(stage: BodyStage) -> None:
    """Every other frame's latents are one picture, those between them another: +0.8 and -0.8 everywhere."""
    latents = torch.full_like(stage.then.latents, 0.8)
    latents[::2] *= -1
    for drawer in (stage.first, stage.then):
        drawer.latents, drawer.windows = latents, 0.0


@pytest.mark.slow
def test_one_step_of_a_student_ends_where_its_teacher_does(tmp_path: Path) -> None:
    """Networks that learnt two kinds of pictures, which nothing but the noise tells apart: in one step a teacher paints their mean,
    in many one of them, and a student that one at once.
    """
    write_avatar(tmp_path)
    conditions = np.load(tmp_path / "square" / "observed" / "condition.npy")
    conditions[:] = conditions[0]
    np.save(tmp_path / "square" / "observed" / "condition.npy", conditions)
    clips, weights = [Clip.open(tmp_path / "square")], of_avatar(tmp_path / "avatar")
    frames, judged = People.train(clips), People.held_out(clips, 1)
    assert isinstance(frames, People) and isinstance(judged, People)
    recipe = replace(RECIPE, rate=3e-3, decay=0.95)
    finetune = BodyStage("finetune", MINI, frames, judged, weights, batch=8, on_latents=1.0)
    of_two_kinds(finetune)
    finetune.first.last = 0.1
    warm_start(finetune.modules, weights)
    learnt = loop.run(finetune, tmp_path / "finetune", recipe, show=False)
    stage = a_stage(tmp_path, {**weights, **learnt.state_dict()}, stride=100)
    of_two_kinds(stage)
    average = loop.run(stage, tmp_path / "distill", replace(recipe, rate=1e-3), show=False)

    noise, many = Noise((8, 8, 8), 5, "per-frame"), 24
    hint, *_ = stage.body.hint(judged.conditions([0]))  # type: ignore[misc]
    tokens = reference_tokens(average, stage.train)
    seen = Seen(hint.expand(many, -1, -1, -1), tokens.expand(many, -1, -1))

    def ends(network: StructureGuided, count: int, rule: Literal["lcm", "ddim"] = "lcm") -> Tensor:
        """Which of the two, -0.8 to 0.8, each noise became."""
        ended = stage.pupil.what.sampled(model(network, seen), count, noise, range(many), rule)
        return ended.mean(dim=(1, 2, 3))

    taught = ends(stage.pupil.teacher, len(stage.pupil.what.grid), "ddim")
    assert taught.abs().mean() > 0.6 and 6 <= int((taught > 0).sum()) <= 18  # the teacher knows both
    hasty, student = ends(stage.pupil.teacher, 1), ends(average["body"], 1)  # type: ignore[arg-type]
    assert hasty.abs().mean() < 0.5  # their mean
    assert (student - taught).abs().mean() < 0.7 * (hasty - taught).abs().mean()
    assert int((student * taught > 0).sum()) >= 18
    for count in (1, 2, 4):
        assert ends(average["body"], count).abs().mean() > 0.7  # type: ignore[arg-type]


def test_how_far_a_student_is_from_its_teacher_is_told(world: Path) -> None:
    stage = a_stage(world, stride=250)
    told, picture = loop.judge(stage, stage.modules, RECIPE)
    assert picture.shape == (2 * 128, 5 * 128, 3)  # the truth, the teacher's many steps, 1, 2 and 4
    assert all(told[f"from_teacher_{count}"] > 0 for count in (1, 2, 4))
    again, _ = loop.judge(stage, stage.modules, RECIPE)
    assert again == told  # the teacher stays the same


def test_only_the_unet_learns_and_the_checkpoint_goes_on_exactly(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = of_avatar(world / "avatar")
    whole = run(world, tmp_path / "whole", 4, distillation=Distillation(pixels=0.5, stride=250))
    for key, weight in whole.state_dict().items():
        unet = key.startswith("body.unet.")
        assert unet or torch.equal(weight, taught[key]), key
    moved = [not torch.equal(v, taught[k]) for k, v in whole.state_dict().items() if k.startswith("body.unet.")]
    assert np.mean(moved) > 0.9

    plain, calls = DistillStage.loss, 0

    def killed(self: DistillStage, batch: Any) -> tuple[Tensor, dict[str, float]]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return plain(self, batch)

    monkeypatch.setitem(
        TINY, "distill", Plan(replace(TINY["distill"].recipe, save_seconds=0.0), TINY["distill"].before)
    )
    monkeypatch.setattr(DistillStage, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path / "killed", 4, distillation=Distillation(pixels=0.5, stride=250))
    assert (
        0 < checkpoint.read(tmp_path / "killed" / "distill" / checkpoint.FILE)["step"] < 3
    )  # slow discs save less often
    monkeypatch.setattr(DistillStage, "loss", plain)
    resumed = run(world, tmp_path / "killed", 4, distillation=Distillation(pixels=0.5, stride=250))
    for key, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], weight), key


def lesson_of(stage: DistillStage, frames: int, apart: int, causal: bool = False) -> Lesson:
    """One window whose frames are the first one and those `apart` from each other, at timestep 499."""
    at = np.arange(frames) * apart
    one = next(x for x in (stage.batch(np.random.default_rng(i), 0.0) for i in range(99)) if x.draw.frames == 1)
    draw, train = one.draw, stage.train
    noise = draw.noisy[:1].expand(frames, -1, -1, -1)
    clean = stage.then.latents[at]
    moved = replace(
        draw,
        at=at,
        frames=frames,
        causal=causal,
        timestep=torch.full((frames,), 499),
        clean=clean,
        noisy=noise + 0.3 * clean,
    )
    return replace(
        one, draw=moved, reference=one.reference[:1], condition=train.conditions(at),
        weight=torch.ones(frames, 1, 8, 8), scale=torch.ones(frames),
    )  # fmt: skip


def test_windows_are_distilled_as_windows(world: Path) -> None:
    weights = of_avatar(world / "avatar")
    for key, weight in weights.items():  # random networks hardly attend
        if key.startswith("body.unet.") and "attentions" in key and key.endswith("proj_out.weight"):
            weights[key] = 100 * weight
    stage = a_stage(world, weights)

    def first(frames: int, apart: int, causal: bool = False) -> Tensor:
        """What student and target make of the first frame of a window, (2, C, h, w)."""
        lesson = lesson_of(stage, frames, apart, causal)
        tokens, hint, _ = stage.given(lesson)
        seen = Seen(hint, tokens, frames, causal)
        made = stage.pupil.lesson(stage.body, lesson.draw.noisy, lesson.draw.timestep, seen, lesson.scale)
        return torch.stack([part[0] for part in made])

    with torch.no_grad():
        alone, copies, others, past = (first(*shape) for shape in ((1, 0), (2, 0), (2, 3), (2, 3, True)))
    moved = (others - alone).abs().amax(dim=(1, 2, 3))
    assert (moved > 1e-4).all()  # it sees the other one
    assert (
        (copies - alone).abs().amax(dim=(1, 2, 3)) < 0.02 * moved
    ).all()  # a frame beside its copy is the frame alone
    assert ((past - alone).abs().amax(dim=(1, 2, 3)) < 0.02 * moved).all()  # it sees no later one
    assert {network.frames for network in (stage.body, stage.pupil.teacher)} == {1}


def test_the_control_net_is_asked_once_for_teacher_and_student(world: Path) -> None:
    stage, calls = a_stage(world), []
    stage.body.controlnet.register_forward_hook(lambda *_: calls.append("now"))
    stage.average = nn.ModuleDict({"body": a_stage(world).body})
    stage.average["body"].controlnet.register_forward_hook(lambda *_: calls.append("after"))  # type: ignore[union-attr]
    stage.loss(lesson_of(stage, 1, 0))
    assert calls == ["now", "after"]


def test_guidance_needs_a_branch_for_nobody(world: Path) -> None:
    weights = of_avatar(world / "avatar")
    guided, plain = a_stage(world, weights, guidance=3.0), a_stage(world, weights)
    lesson = lesson_of(guided, 1, 0)
    with torch.no_grad():
        losses = [float(stage.loss(replace(lesson, scale=torch.tensor([3.0])))[0]) for stage in (plain, guided)]
        assert float(guided.loss(lesson)[0]) == pytest.approx(losses[0], rel=1e-4)  # of scale 1
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    drawn = guided.batch(np.random.default_rng(0), 0.0).scale
    assert ((drawn >= 2.8) & (drawn <= 3.2)).all()
    with pytest.raises(InputError, match=r"--guidance: expected 1, or --from an avatar with appearance\.unconditional"):
        a_stage(world, {k: v for k, v in weights.items() if k != "unconditional"}, guidance=3.0)


def test_without_a_teacher_it_is_one_line(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "square")
    (tmp_path / "autoencoder").mkdir()
    stage = {f"vae.{k}": v for k, v in a_vae().items()}
    torch.save({"average": stage, "config": "mini"}, tmp_path / "autoencoder" / checkpoint.FILE)
    with pytest.raises(
        InputError, match="expected a checkpoint of the stage finetune, or --from an avatar, got neither"
    ):
        train("distill", [clip], tmp_path, config="mini", steps=1, compiled=False, show=False)


def a_vae() -> dict[str, Tensor]:
    return dict(random_networks(head=False, hand=False).vae.state_dict())


def test_a_distilled_avatar_samples_as_it_was_distilled(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "runs", 1, distillation=Distillation(stride=250))
    out = tmp_path / "avatar"
    options: dict[str, Any] = {"config": "mini", "avatar": world / "avatar"}
    avatar = write_bundle(tmp_path / "runs", [world / "square"], out, steps=2, **options)
    assert (avatar.denoise.timesteps, avatar.denoise.sampler, avatar.denoise.guidance) == ((999, 499), "lcm", 1.0)
    assert {"steps", "psnr_person_2"} <= avatar.provenance["distill"].keys()
    assert toml.read(out / FILE, Avatar).denoise == avatar.denoise
    assert avatar.face.denoise.sampler == "ddim"
    assert write_bundle(tmp_path / "runs", [world / "square"], out, **options).denoise.timesteps == (999,)
