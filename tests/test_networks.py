"""The networks: windows, zero convolutions, the autoencoder's cells, and their files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import Timesteps
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from small_avatar import MINI, random_networks
from torch import Tensor, nn

from engine.errors import InputError
from engine.networks import folder as stored
from engine.networks.attention import WindowNorm
from engine.networks.autoencoder import depth_to_space, space_to_depth
from engine.networks.diffusion import StructureGuided
from export.graphs import EncoderGraph, HintGraph, TimestepTables, from_last


def given(frames: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random sample, timesteps, hint and appearance for the small body."""
    random = torch.Generator().manual_seed(seed)
    sample = torch.randn(frames, 8, 8, 8, generator=random)
    hint = torch.rand(frames, 32, 8, 8, generator=random)
    return sample, torch.full((frames,), 999), hint, torch.randn(1, 5, 32, generator=random)


@pytest.fixture
def body() -> StructureGuided:
    return random_networks(head=False).body


@torch.no_grad()
def test_one_frame_is_the_plain_network(body: StructureGuided) -> None:
    inputs = given(1)
    body.set_window(1, "window")
    ours = body(*inputs)
    for network in (body.unet, body.controlnet):
        network.set_attn_processor(AttnProcessor2_0())
        for module in network.modules():
            if isinstance(module, WindowNorm):
                module.__class__ = nn.GroupNorm  # type: ignore[assignment]
    assert torch.allclose(ours, body(*inputs), atol=1e-5)


@torch.no_grad()
def test_causal_windows_change_no_earlier_frame(body: StructureGuided) -> None:
    for network in body.unet.modules():  # fresh transformer blocks are the identity: let them say something
        if isinstance(network, Transformer2DModel):
            nn.init.normal_(network.proj_out.weight, std=0.3)
    sample, timestep, hint, appearance = given(3)
    body.set_window(3, causal=True)
    before = body(sample, timestep, hint, appearance)
    hint[2] += 1.0
    after = body(sample, timestep, hint, appearance)
    assert torch.equal(before[:2], after[:2])
    assert not torch.allclose(before[2], after[2])
    hint[0] += 1.0
    assert (body(sample, timestep, hint, appearance)[1:] - after[1:]).abs().amax((1, 2, 3)).min() > 1e-6
    body.set_window(1)
    assert torch.allclose(body(sample[:1], timestep[:1], given(3)[2][:1], appearance), before[:1], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("scope", ["frame", "window"])
def test_a_frame_beside_copies_of_itself_is_the_frame_alone(body: StructureGuided, scope: str) -> None:
    sample, timestep, hint, appearance = given(1)
    alone = body(sample, timestep, hint, appearance)
    body.set_window(3, scope)  # type: ignore[arg-type]
    copies = body(sample.repeat(3, 1, 1, 1), timestep.repeat(3), hint.repeat(3, 1, 1, 1), appearance)
    assert torch.allclose(copies, alone.expand_as(copies), atol=1e-4)


@torch.no_grad()
def test_frames_of_a_window_see_each_other_and_those_of_another_do_not(body: StructureGuided) -> None:
    sample, timestep, hint, appearance = given(4)
    body.set_window(2)
    before = body(sample, timestep, hint, appearance)
    sample[0] += 1
    after = body(sample, timestep, hint, appearance)
    moved = (after - before).abs().amax(dim=(1, 2, 3))
    assert moved[1] > 1e-4
    assert torch.all(moved[2:] < 1e-5)


def test_window_norm_pools_as_a_five_dimensional_norm_does() -> None:
    x = torch.randn(6, 8, 4, 4)
    plain = nn.GroupNorm(4, 8)
    nn.init.normal_(plain.weight)
    pooled = plain(x.reshape(2, 3, 8, 4, 4).transpose(1, 2)).transpose(1, 2).reshape(6, 8, 4, 4)
    plain.__class__ = WindowNorm
    for rows in ((-1, 3), (2, -1)):
        plain.rows = rows  # type: ignore[assignment]
        assert torch.allclose(plain(x), pooled, atol=1e-5)


@torch.no_grad()
def test_zero_convolutions_change_nothing_at_first() -> None:
    torch.manual_seed(0)
    networks = stored.build(MINI)
    sample, timestep, hint, appearance = given(1)
    with_control = networks.body(sample, timestep, hint, appearance)
    alone = networks.body.unet(sample, timestep, appearance, return_dict=False)[0]
    assert torch.equal(with_control, alone)
    skips = (torch.randn(1, 16, 16, 16), torch.randn(1, 16, 32, 32))
    assert torch.equal(networks.vae.decode(sample, skips), networks.vae.decode(sample))


def test_cells_come_back_as_the_picture() -> None:
    image = torch.randn(2, 3, 16, 32)
    assert torch.equal(depth_to_space(space_to_depth(image)), image)


@torch.no_grad()
def test_bytes_give_what_the_picture_gives() -> None:
    networks = random_networks(head=False)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8))
    planes = pixels.permute(0, 3, 1, 2).float()
    assert torch.allclose(EncoderGraph(networks.vae)(pixels), networks.vae.encode(planes / 127.5 - 1), atol=1e-5)
    assert networks.body.hint is not None
    for ours, theirs in zip(HintGraph(networks.body.hint)(pixels), networks.body.hint(planes / 255), strict=True):
        assert torch.allclose(from_last(ours), theirs, atol=1e-5)


def test_tables_of_timesteps_are_the_sinusoids() -> None:
    for flip, shift in ((True, 0), (False, 1)):
        plain = Timesteps(64, flip, shift)
        every = torch.arange(1000)
        assert (TimestepTables(plain)(every) - plain(every)).abs().max() < 1e-4  # float32 rounds 999 times a frequency


def test_networks_come_back_from_their_folder(tmp_path: Path) -> None:
    networks = random_networks()
    stored.save(networks, tmp_path)
    loaded = stored.load(tmp_path)
    for (name, ours), (_, theirs) in zip(networks.parts(), loaded.parts(), strict=True):
        for key, tensor in ours.state_dict().items():
            same = theirs.state_dict()[key]
            expected = tensor if "running" in key or "num_batches" in key else tensor.half().float()
            assert torch.equal(same, expected), f"{name} {key}"
    # Every weight is known to lie somewhere, and there is what the network computes with.
    where = stored.places(loaded)
    for _, network in loaded.parts():
        for parameter in network.parameters():
            place = where[id(parameter)]
            dtype, shape, offset, length = stored.spans(tmp_path / place.file)[place.key]
            assert dtype == "F16"
            raw = (tmp_path / place.file).read_bytes()[offset : offset + length]
            assert np.array_equal(np.frombuffer(raw, np.float16).reshape(shape), parameter.detach().half().numpy())


def test_configs_name_no_path_of_the_machine(tmp_path: Path) -> None:
    stored.save(random_networks(head=False), tmp_path)
    for file in tmp_path.rglob("config.json"):
        assert str(tmp_path) not in file.read_text()


@pytest.mark.parametrize("broken", ["missing", "truncated", "other"])
def test_a_broken_folder_is_one_clear_line(tmp_path: Path, broken: str) -> None:
    stored.save(random_networks(head=False), tmp_path)
    file = tmp_path / "body" / "unet" / stored.MODEL_WEIGHTS
    if broken == "missing":
        file.unlink()
    elif broken == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    else:
        shutil.copy(tmp_path / "vae" / stored.MODEL_WEIGHTS, file)
    with pytest.raises(InputError, match="body/unet") as caught:
        stored.load(tmp_path)
    assert "\n" not in str(caught.value)
