"""The exact mode's claim on real networks: the frames of the published algorithm, bit for bit, first and last ones included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine.avatar import Avatar, Mode, bundled_avatar
from engine.clips import read_clip
from engine.denoise import Exact, Predict, offline
from engine.noise import Noise
from engine.resample import resample
from engine.sampler import Sampler
from engine.stages import LATENTS
from engine.steps import Schedule, spaced
from engine.windows import windows
from engine.work import Work, advance, flush
from export.live import open_live

SIZES = [(16, 4), (8, 2), (8, 4)]


def bundled_latents(mode: Mode, window: int, overlap: int, steps: int, frames: int) -> list[np.ndarray]:
    """What the bundled anchor's denoiser makes of the first `frames` poses of its own clip, as it ships."""
    avatar = Avatar.load(bundled_avatar())
    engine = open_live(avatar, "openvino", mode=mode, window=window, overlap=overlap, steps=steps, again=())
    names = [stage.name for stage in engine.stages]
    stages = engine.stages[: names.index("denoise") + 1]
    poses = resample(read_clip(bundled_avatar() / "clip.npz"), avatar.fps).frames()
    done = [w for i, pose in zip(range(frames), poses, strict=False) for w in advance(stages, [Work(i, 0, pose)], int)]
    done += flush(stages, int)
    assert [work.index for work in done] == list(range(frames))
    return [work.arrays[LATENTS] for work in done]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(("window", "overlap"), SIZES)
def test_the_bundled_anchor_in_its_runtime(window: int, overlap: int, steps: int) -> None:
    """200 frames, so that a short window trails; its predictions agree with their neighbours', too."""
    frames = 200
    assert len(windows(frames, window, overlap)[-1]) < window
    exact = bundled_latents("exact", window, overlap, steps, frames)
    whole = bundled_latents("offline", window, overlap, steps, frames)
    for ours, theirs in zip(exact, whole, strict=True):
        assert np.array_equal(ours, theirs)
    assert np.isfinite(whole[0]).all() and not np.array_equal(whole[0], whole[-1])


def test_the_bundled_anchor_over_a_few_frames() -> None:
    exact = bundled_latents("exact", 4, 1, 2, 9)
    whole = bundled_latents("offline", 4, 1, 2, 9)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(exact, whole, strict=True))


Evaluate = Callable[[int], tuple[Predict, np.ndarray]]


@pytest.fixture(scope="module")
def published() -> Evaluate:
    """Networks of Stable Diffusion's shape, a tenth as wide, random: pooled norms, all-frame attention, both branches batched."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from engine.networks.diffusion import StructureGuided

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32, 64, 64), attention_head_dim=8, cross_attention_dim=32,
    )  # fmt: skip
    body = StructureGuided(unet, diffusers.ControlNetModel.from_unet(unet), None, control_scale=2.0).eval()
    for parameter in body.parameters():
        if parameter.ndim > 1 and not parameter.any():  # zero convolutions would hide the condition
            torch.nn.init.normal_(parameter, std=0.02)

    def given(frames: int) -> tuple[Predict, np.ndarray]:
        random = torch.Generator().manual_seed(1)
        condition = torch.rand(frames, 3, 64, 64, generator=random)
        tokens = torch.randn(2, 5, 32, generator=random)
        times = spaced(Schedule(), 4).now

        @torch.no_grad()
        def predict(latents, seen: range, step: int):  # type: ignore[no-untyped-def]
            n = len(seen)
            body.set_window(n, "window")
            hints = condition[seen.start : seen.stop].repeat(2, 1, 1, 1)
            said = body(
                latents.repeat(2, 1, 1, 1), torch.full((2 * n,), times[step]), hints, tokens.repeat_interleave(n, 0)
            )
            return said.reshape(2, n, *said.shape[1:])

        noise = Noise((4, 8, 8), 3)
        return predict, np.stack([noise.at(i) for i in range(frames)])

    return given


@pytest.mark.parametrize("frames", [37, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(("window", "overlap"), SIZES)
def test_stable_diffusions_shape_in_torch(
    published: Evaluate, window: int, overlap: int, steps: int, frames: int
) -> None:
    """Guidance 7.5, W_c 2, one noise for all frames, DDIM; both lengths end in short windows."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only lose by sharing their work
    try:
        predict, start = published(frames)
        how = Sampler(Schedule(), spaced(Schedule(), steps), "epsilon", guidance=7.5)
        whole = offline(torch.from_numpy(start), predict, how, windows(frames, window, overlap))
        live = Exact(how, predict, window, overlap)
        out = [latents.clone() for noise in start for latents in live.push(torch.from_numpy(noise))]
        out += live.flush()
        assert len(out) == frames and torch.equal(torch.stack(out), whole)
        assert float((whole[0] - whole[1]).abs().max()) > 0  # conditions differ
    finally:
        torch.set_num_threads(threads)
