"""From trained stages to an avatar on disc that the live engine runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_avatar import MINI, random_networks, write_avatar, write_clip

from engine.avatar import Avatar
from engine.errors import InputError
from engine.networks import folder as stored
from engine.networks.configs import CONFIGS
from engine.networks.folder import AvatarNetworks
from engine.training import loop
from engine.training.__main__ import main
from engine.training.bundle import sizes, trained, write_bundle
from export.graphs import graphs


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "mini", MINI)


def write_runs(runs: Path, stages: tuple[str, ...]) -> AvatarNetworks:
    """Checkpoints as the stages leave them, each of its own random weights; the networks that they make."""
    by_stage = {stage: random_networks(seed=i) for i, stage in enumerate(("autoencoder", "body", "pixels", "face"))}
    for stage in stages:
        n = by_stage[stage]
        assert n.head is not None and n.head_decoder is not None
        modules = {
            "autoencoder": {"vae": n.vae},
            "body": {"body": n.body, "image_encoder": n.image_encoder},
            "pixels": {"body": n.body, "image_encoder": n.image_encoder, "decoder": n.vae.decoder},
            "face": {"head": n.head, "head_decoder": n.head_decoder.decoder},
        }[stage]
        (runs / stage).mkdir(parents=True)
        torch.save({"average": torch.nn.ModuleDict(modules).state_dict()}, runs / stage / loop.CHECKPOINT)
        rows = '{"step": 40, "seconds": 30.0, "loss": 1}\n{"step": 80, "seconds": 90.0, "psnr": 31.5}\n'
        (runs / stage / "log.jsonl").write_text(rows)
    source = by_stage["pixels" if "pixels" in stages else "body"]
    vae = by_stage["autoencoder"].vae
    if "pixels" in stages:
        vae.decoder = source.vae.decoder
    face = by_stage["face"] if "face" in stages else AvatarNetworks(source.body, vae, source.image_encoder)
    return AvatarNetworks(source.body, vae, source.image_encoder, face.head, face.head_decoder)


ALL = ("autoencoder", "body", "pixels", "face")


@pytest.mark.parametrize("stages", [ALL, ALL[:3], ALL[:2]])
def test_the_newest_stage_that_is_there_counts(tmp_path: Path, stages: tuple[str, ...]) -> None:
    wanted = write_runs(tmp_path, stages)
    networks, there = trained(tmp_path, MINI)
    assert there == stages
    for (name, ours), (other, theirs) in zip(networks.parts(), wanted.parts(), strict=True):
        assert name == other
        for key, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], tensor), f"{name} {key}"


def test_an_avatar_that_tells_where_it_comes_from(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", ALL)
    clip = write_clip(tmp_path / "square")
    out = tmp_path / "avatar"
    out.mkdir()
    (out / "clip.npz").write_bytes(b"a clip")
    avatar = write_bundle(tmp_path / "runs", [clip], out, config="mini", seed=5)
    assert (out / "clip.npz").read_bytes() == b"a clip"
    assert avatar.provenance["pixels"] == {"minutes": 1.5, "steps": 80, "psnr": 31.5}
    assert avatar.provenance["train_frames"] == 8
    assert avatar.provenance["seed"] == 5
    assert avatar.face.enabled
    assert str(tmp_path) not in (out / "avatar.toml").read_text()
    body, head = (np.asarray(Image.open(out / "appearance" / f"{part}.png")) for part in ("body", "head"))
    assert np.array_equal(body, np.load(clip / "frames.npy")[0])
    assert head.shape == (64, 64, 3)
    assert sum(sizes(out).values()) < 4e6
    assert not [file for file in out.rglob("*") if file.name.startswith(".")]
    with pytest.raises(InputError, match=r"body\.onnx"):  # not exported yet
        Avatar.load(out)
    loaded = stored.load(out)
    with pytest.raises(InputError, match="head"):
        (out / "head/hint/config.json").unlink()
        stored.load(out)
    assert loaded.head is not None


def test_stages_that_are_missing_or_of_another_size_are_one_line(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "square")
    with pytest.raises(InputError, match=r"body.*a checkpoint of this stage"):
        write_runs(tmp_path / "a", ("autoencoder",))
        write_bundle(tmp_path / "a", [clip], tmp_path / "out", config="mini")
    write_runs(tmp_path / "b", ALL)
    with pytest.raises(InputError, match="those of this configuration"):
        write_bundle(tmp_path / "b", [clip], tmp_path / "out", config="tiny")
    assert not (tmp_path / "out").exists()


def test_without_a_head_there_is_no_face_pass(tmp_path: Path) -> None:
    avatar = write_avatar(tmp_path, head=False)
    assert not avatar.face.enabled
    names = {graph.name for graph in graphs(avatar, stored.load(tmp_path / "avatar"))}
    assert names == {"appearance", "hint", "body", "body_w2", "decoder"}


def test_the_command_says_what_is_wrong_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, line in (
        (["--out", str(tmp_path / "o")], "clip.toml: file: expected a TOML file, got no such file"),
        ([], "bundle: --out: expected the avatar's folder, got none"),
    ):
        monkeypatch.setattr("sys.argv", ["training", "bundle", str(tmp_path), "--runs", str(tmp_path), *options])
        assert main() == 2
        assert capsys.readouterr().err.strip().endswith(line)
