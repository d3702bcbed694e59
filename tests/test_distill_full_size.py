"""An imported avatar's body learns to need few steps: its guidance, condition weight and normalisation are its teacher's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mya_tree import SMALL, write_tree
from test_train_full_size import OPTIONS, clip, small  # noqa: F401  fixtures

from engine import toml
from engine.avatar import FILE, Avatar
from engine.errors import InputError
from engine.importing.make_your_anchor import Origin, import_avatar
from engine.networks.folder import load_guided
from engine.training import loop
from engine.training.base import write_distilled
from engine.training.consistency import Distillation
from engine.training.stages.distill_full_size import DistillFullSizeStage
from engine.training.train import data, distill_full_size, plan, train

SHORT = Distillation(to=(1, 2), guidance=7.5, stride=250)


@pytest.fixture(scope="module")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "avatar"
    tree = write_tree(out.parent / "tree", SMALL, head=False)
    origin = Origin(tree.source, tree.base, tree.image_encoder, tree.body_picture, camera=(0.0, -0.1, 8.0), face=False)
    import_avatar(origin, out, lambda line: None)
    return out


def test_its_teacher_is_the_avatar_as_it_runs(avatar: Path, clip: Path) -> None:  # noqa: F811
    frames, judged = data(plan("sd15", "distill"), "distill", [clip], 1)
    stage = distill_full_size(frames, judged, avatar, {}, SHORT)
    assert isinstance(stage, DistillFullSizeStage)
    pupil = stage.pupil
    assert (pupil.student.control_scale, pupil.teacher.control_scale, pupil.scope) == (2.0, 2.0, "window")
    assert pupil.what.prediction == "epsilon"
    assert pupil.nobody is not None and pupil.nobody.shape == (1, 5, 32)
    shapes, stage.draw.windows = set(), 1.0
    for seed in range(12):
        lesson = stage.batch(np.random.default_rng(seed), 0.0)
        assert ((lesson.scale >= 1 + 6.5 * 0.9) & (lesson.scale <= 1 + 6.5 * 1.1)).all()
        shapes.add((lesson.draw.frames, lesson.draw.causal))
    assert shapes == {(2, False), (2, True), (4, False), (4, True)}
    assert torch.isfinite(stage.loss(lesson)[0])
    figures, picture = loop.judge(stage, stage.modules, loop.Recipe(precision="f32"))
    assert figures.keys() == {"psnr_teacher", "psnr_1", "psnr_2"}
    assert picture.shape == (128, 4 * 128, 3)


def test_what_is_left_is_the_avatar_in_few_steps_without_guidance(avatar: Path, clip: Path, tmp_path: Path) -> None:  # noqa: F811
    train("distill", [clip], tmp_path, avatar=avatar, distillation=SHORT, steps=2, **OPTIONS)
    out = tmp_path / "avatar"
    written = write_distilled(tmp_path, avatar, out, steps=2, config="mini15")
    before, after = (load_guided(folder, "body").state_dict() for folder in (avatar, out))
    for key, weight in before.items():
        assert key.startswith("unet.") or torch.equal(after[key], weight), key
    assert any(not torch.equal(after[key], weight) for key, weight in before.items())
    d = toml.read(out / FILE, Avatar).denoise
    assert d == written.denoise
    assert (d.timesteps, d.sampler, d.guidance, d.control_scale) == ((999, 499), "lcm", 1.0, 2.0)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in avatar.iterdir())
    with pytest.raises(InputError, match="expected a folder that is new"):
        write_distilled(tmp_path, avatar, out, steps=2, config="mini15")


def test_without_an_avatar_it_is_one_line(clip: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match="expected --from, an avatar's folder, got none"):
        train("distill", [clip], tmp_path, steps=1, **OPTIONS)
