"""From trained stages to an avatar on disc that the live engine runs."""

from __future__ import annotations

from dataclasses import replace
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
from engine.training import checkpoint
from engine.training.bundle import describe, sizes, trained, write_bundle
from engine.training.dataset import Clip
from export.graphs import graphs

ALL = ("autoencoder", "pretrain", "finetune", "face", "hands")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "mini", MINI)


def write_runs(runs: Path, stages: tuple[str, ...]) -> AvatarNetworks:
    """Checkpoints as the stages leave them, each of its own random weights; the networks that they make."""
    by_stage = {stage: random_networks(seed=i) for i, stage in enumerate(ALL)}
    for stage in stages:
        n = by_stage[stage]
        assert n.head is not None and n.head_decoder is not None
        assert n.hand is not None and n.hand_decoder is not None
        modules = {
            "autoencoder": {"vae": n.vae},
            "pretrain": {"body": n.body, "image_encoder": n.image_encoder, "decoder": n.vae.decoder},
            "finetune": {"body": n.body, "image_encoder": n.image_encoder, "decoder": n.vae.decoder},
            "face": {"head": n.head, "head_decoder": n.head_decoder.decoder},
            "hands": {"hand": n.hand, "hand_decoder": n.hand_decoder.decoder},
        }[stage]
        (runs / stage).mkdir(parents=True)
        torch.save({"average": torch.nn.ModuleDict(modules).state_dict()}, runs / stage / checkpoint.FILE)
        rows = '{"step": 40, "seconds": 30.0, "loss": 1}\n{"step": 80, "seconds": 90.0, "psnr": 31.5}\n'
        (runs / stage / "log.jsonl").write_text(rows)
    source, vae = by_stage["finetune" if "finetune" in stages else "pretrain"], by_stage["autoencoder"].vae
    vae.decoder = source.vae.decoder
    wanted = AvatarNetworks(source.body, vae, source.image_encoder)
    if "face" in stages:
        wanted.head, wanted.head_decoder = by_stage["face"].head, by_stage["face"].head_decoder
    if "hands" in stages:
        wanted.hand, wanted.hand_decoder = by_stage["hands"].hand, by_stage["hands"].hand_decoder
    return wanted


@pytest.mark.parametrize("stages", [ALL, ALL[:4], ALL[:3], ALL[:2]])
def test_the_newest_stage_that_is_there_counts(tmp_path: Path, stages: tuple[str, ...]) -> None:
    wanted = write_runs(tmp_path, stages)
    networks, there = trained(tmp_path, MINI)
    assert there == stages
    for (name, ours), (other, theirs) in zip(networks.parts(), wanted.parts(), strict=True):
        assert name == other
        rounded = {key for key, _ in theirs.named_parameters()}  # weights to bf16, statistics not
        for key, tensor in theirs.state_dict().items():
            wished = tensor.bfloat16().float() if key in rounded else tensor
            assert torch.equal(ours.state_dict()[key], wished), f"{name} {key}"


def test_an_avatar_that_tells_where_it_comes_from(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", ALL)
    clip = write_clip(tmp_path / "square")
    out = tmp_path / "avatar"
    out.mkdir()
    (out / "clip.npz").write_bytes(b"a clip")
    avatar = write_bundle(tmp_path / "runs", [clip], out, config="mini", seed=5, context=2, mode="bank")
    assert (avatar.denoise.mode, avatar.denoise.context) == ("bank", 2)
    assert (out / "clip.npz").read_bytes() == b"a clip"
    assert avatar.provenance["finetune"] == {"minutes": 1.5, "steps": 80, "psnr": 31.5}
    assert avatar.provenance["train_frames"] == 8
    assert avatar.provenance["seed"] == 5
    assert avatar.person == "real"
    (clip / "clip.toml").write_text((clip / "clip.toml").read_text().replace("synthetic = false", "synthetic = true"))
    assert describe([Clip.open(clip)], random_networks(), "synthetic").person == "synthetic"
    assert avatar.face.enabled
    assert (avatar.hands.enabled, avatar.hands.size, avatar.hands.latent.size) == (True, 64, 4)
    assert str(tmp_path) not in (out / "avatar.toml").read_text()
    body, head = (np.asarray(Image.open(out / "appearance" / f"{part}.png")) for part in ("body", "head"))
    assert np.array_equal(body, np.load(clip / "frames.npy")[0])
    assert head.shape == (64, 64, 3)
    assert sum(sizes(out).values()) < 6e6
    assert not [file for file in out.rglob("*") if file.name.startswith(".")]
    with pytest.raises(InputError, match=r"networks\.body_bank"):  # not exported yet
        Avatar.load(out)
    loaded = stored.load(out)
    with pytest.raises(InputError, match="head"):
        (out / "head/hint/config.json").unlink()
        stored.load(out)
    assert loaded.head is not None


def test_stages_that_are_missing_or_of_another_size_are_one_line(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "square")
    with pytest.raises(InputError, match=r"stages: expected a checkpoint of pretrain or finetune, got autoencoder"):
        write_runs(tmp_path / "a", ("autoencoder",))
        write_bundle(tmp_path / "a", [clip], tmp_path / "out", config="mini")
    write_runs(tmp_path / "b", ALL)
    with pytest.raises(InputError, match="those of this configuration"):
        write_bundle(tmp_path / "b", [clip], tmp_path / "out", config="tiny")
    assert not (tmp_path / "out").exists()


def test_without_their_networks_face_and_hands_are_painted_once(tmp_path: Path) -> None:
    folder = tmp_path / "avatar"
    avatar = replace(write_avatar(tmp_path, head=False, hand=False), folder=folder)
    assert not avatar.face.enabled
    assert not avatar.hands.enabled
    names = {graph.name for graph in graphs(avatar, stored.load(folder))}
    assert names == {"appearance", "hint", "body", "body_windows", "body_bank", "decoder"}
