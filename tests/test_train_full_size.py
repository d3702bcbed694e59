"""Training of Stable Diffusion's shape, on networks of that shape and a hundredth of the size with random weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from mya_tree import SMALL, write_tree
from small_avatar import MINI
from test_train_command import person

from engine.clips import write_clip as write_motion
from engine.errors import InputError
from engine.importing.make_your_anchor import Origin, import_avatar
from engine.networks.configs import CONFIGS
from engine.networks.folder import load_guided
from engine.pose import PoseClip
from engine.steps import Schedule
from engine.training import checkpoint
from engine.training.base import of_base
from engine.training.base import write_tree as write_networks
from engine.training.dataset import Clip
from engine.training.people import People
from engine.training.perturb import Perturbed
from engine.training.recipes import PLANS, SD15
from engine.training.stages.epsilon import EpsilonStage, Face, Whole
from engine.training.train import train

OPTIONS: dict[str, Any] = {
    "config": "mini15", "device": "cpu", "precision": "f32", "batch": 2, "held_out": 1, "threads": 1, "show": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "mini15", replace(MINI, vae=None))
    monkeypatch.setitem(PLANS, "mini15", SD15)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody who stands still, with a motion that the mesh can be rendered from."""
    folder = person(tmp_path_factory.mktemp("people") / "ada", "ada", 6)
    write_motion(folder / "clip.npz", PoseClip(25.0, *(np.zeros((6, n), np.float32) for n in (165, 100, 3))))
    return folder


def base(folder: Path, in_channels: int = 4) -> Path:
    """A base model with CLIP's vision tower."""
    tree = write_tree(folder, SMALL, head=False)
    torch.manual_seed(0)
    UNet2DConditionModel(**SMALL.unet, in_channels=in_channels).save_pretrained(tree.base / "unet")
    shutil.copytree(tree.image_encoder, tree.base / "image_encoder")
    return tree.base


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base(tmp_path_factory.mktemp("inpainting"), 9)


def frames(clip: Path) -> tuple[People, Perturbed]:
    people = People.train([Clip.open(clip)])
    assert isinstance(people, People)
    return people, Perturbed(people, 0.0, style="authors")


def test_the_loss_is_the_papers(clip: Path, sd15: Path) -> None:
    """|eps - eps_theta|^2 on z_t of the scaled latents of the autoencoder."""
    people, conditions = frames(clip)
    stage = EpsilonStage(
        "pretrain", "body", of_base(sd15, "body"), Whole(people, conditions), Whole(people, conditions)
    )
    batch = stage.batch(np.random.default_rng(3), 0.0)
    at = people.draw(np.random.default_rng(3), 4)
    latents = stage.vae.encode(people.pictures(at)).latent_dist.mean * 0.18215
    alpha = torch.tensor(Schedule().alphas[batch.timestep.numpy()], dtype=torch.float32)[:, None, None, None]
    torch.testing.assert_close(batch.noisy, alpha.sqrt() * latents + (1 - alpha).sqrt() * batch.noise)
    assert torch.equal(batch.condition, conditions(at, np.random.default_rng(0)))
    guided = stage.modules["body"]
    tokens = stage.encoder(torch.zeros(1, 3, 32, 32)).last_hidden_state
    assert tokens.shape == (1, 5, 32)
    first, _ = stage.loss(batch)
    guided.forward = lambda sample, timestep, hint, appearance: batch.noise  # type: ignore[method-assign]
    perfect, _ = stage.loss(batch)
    assert first > 0.1
    assert perfect == 0.0


def test_the_face_is_inpainted_from_what_the_mask_keeps(clip: Path, inpainting: Path) -> None:
    people, conditions = frames(clip)
    view = Face(people, conditions, 64)
    stage = EpsilonStage("face", "head", of_base(inpainting, "head"), view, view, batch=2)
    batch, at = stage.batch(np.random.default_rng(0), 0.0), people.draw(np.random.default_rng(0), 2)
    assert batch.beside is not None and batch.beside.shape == (2, 5, 8, 8)
    assert set(batch.beside[:, 0].unique().tolist()) == {0.0, 1.0}  # 1 = keep
    kept = stage.vae.encode(view.pictures(at) * view.keep(at)).latent_dist.mean * 0.18215
    torch.testing.assert_close(batch.beside[:, 1:], kept)
    assert torch.isfinite(stage.loss(batch)[0])


@pytest.mark.slow
def test_pretrain_finetune_and_face_from_base_models_to_an_avatar(
    clip: Path, sd15: Path, inpainting: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    first = train("pretrain", [clip], tmp_path, base=sd15, steps=1, tell=said.append, **OPTIONS)
    assert said[0] == f"pretrain: goes on from {sd15}"
    train("pretrain", [clip], tmp_path, base=sd15, steps=2, perturb=0.02, **OPTIONS)
    assert checkpoint.read(tmp_path / "pretrain" / checkpoint.FILE, "mini15")["step"] == 2
    assert {key.split(".")[0] for key in first.state_dict()} == {"body"}  # the autoencoder and CLIP do not learn
    train("finetune", [clip], tmp_path, base=sd15, steps=1, tell=said.append, **OPTIONS)
    assert "finetune: goes on from trained weights" in said
    train("face", [clip], tmp_path, base=inpainting, steps=1, **OPTIONS)
    assert (tmp_path / "face" / "validation.png").exists()

    tree = tmp_path / "tree"
    names = write_networks(tmp_path, sd15, tree, "mini15")
    assert names == ["body/unet", "body/controlnet", "head/unet", "head/controlnet"]
    trained = checkpoint.read(tmp_path / "finetune" / checkpoint.FILE)["average"]
    stored = load_guided(tree, "body").state_dict()
    assert all(torch.equal(value, trained[f"body.{key}"].half().float()) for key, value in stored.items())
    pictures = [sd15.parent / f"{part}.png" for part in ("body", "head")]
    origin = Origin(tree, sd15, sd15 / "image_encoder", *pictures, camera=(0.0, 0.3, 12.0))
    avatar = import_avatar(origin, tmp_path / "avatar", said.append)
    assert avatar.denoise.prediction == "epsilon"
    train("finetune", [clip], tmp_path / "again", avatar=tmp_path / "avatar", steps=1, tell=said.append, **OPTIONS)
    assert f"finetune: goes on from {tmp_path / 'avatar'}" in said


def test_base_models_that_do_not_fit_are_one_line(clip: Path, sd15: Path, inpainting: Path, tmp_path: Path) -> None:
    def fails(match: str, stage: str = "pretrain", **options: Any) -> None:
        with pytest.raises(InputError, match=match):
            train(stage, [clip], tmp_path / "runs", steps=1, **{**OPTIONS, **options})

    fails(r"--base, a base model's folder, or --from, an avatar's, got neither")
    fails(r"unet: in_channels: expected 4, got 9", base=inpainting)
    fails(r"unet: in_channels: expected 9, got 4", "face", base=sd15)
    fails(r"stage: expected pretrain \| finetune \| distill \| face, got hands", "hands", base=sd15)
    fails(r"image_encoder", base=tmp_path)
    other = shutil.copytree(sd15, tmp_path / "v")
    file = other / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "v_prediction"}))
    with pytest.raises(InputError, match="a checkpoint of pretrain or finetune, got none"):
        write_networks(tmp_path / "runs", sd15, tmp_path / "tree")
    fails(r"prediction_type: expected epsilon, got v", base=other)
    assert not (tmp_path / "runs").exists()
