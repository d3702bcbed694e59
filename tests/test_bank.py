"""The bank of past keys and values against the plain formula: the whole clip at once, each layer under one banded mask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from small_avatar import random_networks
from torch import Tensor

from engine import denoise
from engine.networks import folder as stored
from engine.networks.bank import Bank
from engine.networks.diffusion import StructureGuided
from engine.predict import Predictor
from engine.steps import Schedule, listed
from export import ladder, runtime

FRAMES = 7
RUNTIMES = [info.name for info in ladder.describe() if info.usable]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def body() -> StructureGuided:
    return random_networks(head=False).body


def given(frames: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random sample, timesteps, hint and appearance for the small body."""
    random = torch.Generator().manual_seed(seed)
    sample = torch.randn(frames, 8, 8, 8, generator=random)
    hint = 3 * torch.randn(frames, 32, 8, 8, generator=random)
    return sample, torch.full((frames,), 999), hint, torch.randn(1, 5, 32, generator=random)


class Banded:
    """Self-attention over all frames of a clip, in which each sees those that `seen` (frames, frames) names; no library's."""

    def __init__(self, seen: Tensor) -> None:
        self.seen = seen

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        frames, tokens, channels = hidden_states.shape
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            x.unflatten(-1, (attn.heads, -1)).double()
            for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        seen = torch.eye(frames) if encoder_hidden_states is not None else self.seen
        scores = torch.einsum("fqhd,gkhd->hfqgk", q, k) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(seen[None, :, None, :, None] == 0, -torch.inf)
        weights = scores.flatten(-2).softmax(-1).unflatten(-1, scores.shape[-2:])
        out = torch.einsum("hfqgk,gkhd->fqhd", weights, v).float().reshape(frames, tokens, channels)
        return attn.to_out[0](out)  # type: ignore[no-any-return]


def band(frames: int, past: int, anchor: bool = False) -> Tensor:
    """(frames, frames): 1 where the first sees the second, itself or one of the `past` before it, or the first of all."""
    seen = torch.ones(frames, frames).tril() - torch.ones(frames, frames).tril(-past - 1)
    if anchor:
        seen[:, 0] = 1
    return seen


def whole_clip(body: StructureGuided, seen: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
    """What the plain formula says of all frames at once."""
    body.unet.set_attn_processor(Banded(seen))
    said = body(*inputs)
    body.set_window(1)
    return said  # type: ignore[no-any-return]


def frame_by_frame(body: StructureGuided, slots: int, inputs: tuple[Tensor, ...]) -> Tensor:
    """A stream of single frames, the bank a ring of `slots`."""
    sample, timestep, hint, appearance = inputs
    ring: list[Tensor] = []
    said = []
    for i in range(len(sample)):
        filled = torch.tensor([min(i, slots)])
        bank = Bank(ring, filled) if ring else Bank()
        said.append(body(sample[i : i + 1], timestep[:1], hint[i : i + 1], appearance, bank))
        ring = ring or [torch.full((*x.shape[:3], slots, *x.shape[3:]), 1e3) for x in bank.new]  # rubbish, not seen
        for held, new in zip(ring, bank.new, strict=True):
            held[:, :, :, i % slots] = new
    return torch.cat(said)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_stream_with_a_bank_is_the_whole_clip_under_banded_attention(body: StructureGuided, slots: int) -> None:
    inputs = given(FRAMES)
    live = frame_by_frame(body, slots, inputs)
    assert (live - whole_clip(body, band(FRAMES, slots), inputs)).abs().max() < 1e-4
    assert (live - whole_clip(body, band(FRAMES, 0), inputs))[1:].abs().amax((1, 2, 3)).min() > 1e-3  # the past matters


def test_the_first_frames_are_those_of_a_causal_window_in_training(body: StructureGuided) -> None:
    inputs = given(3)
    live = frame_by_frame(body, 2, inputs)
    body.set_window(3, causal=True)
    assert (live - body(*inputs)).abs().max() < 1e-4


def test_one_frame_alone_is_the_plain_network(body: StructureGuided) -> None:
    inputs = given(1)
    bank = Bank()
    assert torch.equal(body(*inputs, bank), body(*inputs))
    assert [tuple(x.shape) for x in bank.new] == [(1, 2, 1, 16, 48), (2, 2, 1, 64, 32)]  # middle block, up block
    past = [torch.full((*x.shape[:3], 2, *x.shape[3:]), 1e3) for x in bank.new]
    unseen = body(*inputs, Bank(past, torch.tensor([0])))
    assert torch.allclose(unseen, body(*inputs), atol=1e-5)


def test_both_branches_of_guidance_have_a_past_of_their_own(body: StructureGuided) -> None:
    sample, timestep, hint, appearance = given(2)
    others = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(2))
    apart = [frame_by_frame(body, 1, (sample, timestep, hint, tokens)) for tokens in (appearance, others)]
    ring: list[Tensor] = []
    for i in range(2):
        bank = Bank(ring, torch.tensor([1])) if ring else Bank()
        twice = (x[i : i + 1].repeat(2, *[1] * (x.ndim - 1)) for x in (sample, timestep, hint))
        said = body(*twice, torch.cat([appearance, others]), bank)
        assert torch.allclose(said, torch.stack([branch[i] for branch in apart]), atol=1e-5)
        ring = [x[:, :, :, None] for x in bank.new]


def test_a_bank_is_for_single_frames(body: StructureGuided) -> None:
    body.set_window(2)
    with pytest.raises(ValueError, match="one frame at a time, not windows of 2"):
        body(*given(2), Bank())


@pytest.mark.parametrize("anchor", [False, True])
@pytest.mark.parametrize("name", RUNTIMES)
def test_the_graph_streams_what_torch_says_of_the_whole_clip(exported: Path, name: str, anchor: bool) -> None:
    sample, _, hint, appearance = given(FRAMES)
    sampler = denoise.Sampler(Schedule(), listed([999, 499]), "sample")
    body, latents = stored.load(exported).body, sample.numpy()
    seen = band(FRAMES, 2 - anchor, anchor)
    for step, time in enumerate(sampler.times.now):
        inputs = torch.from_numpy(latents), torch.full((FRAMES,), time), hint, appearance
        latents = sampler.step(latents, whole_clip(body, seen, inputs).numpy(), range(FRAMES), step)

    network = runtime.load(exported, ["body_bank"], name, "f32", threads=1)["body_bank"]
    predictor = Predictor(network, sampler.times.now, {"appearance": appearance.numpy()})
    live = denoise.Bank(sampler, predictor, anchor)

    def stream(hints: Tensor) -> np.ndarray:
        finished = []
        for i in range(FRAMES):
            predictor.remember(i, {"hint16": hints[i : i + 1].permute(0, 2, 3, 1).numpy()})
            finished += live.push(network.home.put(sample[i].numpy()))
        live.reset()
        return np.stack([network.home.host(latents) for latents in finished])

    streamed = stream(hint)
    np.testing.assert_allclose(streamed, latents, atol=1e-4)
    hint[4:] += 1.0
    changed = stream(hint)
    assert np.array_equal(changed[:4], streamed[:4])  # the past stands, and nothing of the stream before is left
    assert np.abs(changed - streamed)[4:].max((1, 2, 3)).min() > 1e-3
