"""Algorithm 1 against what Make-Your-Anchor's own code computes on a small checkpoint with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.denoise import offline
from engine.sampler import Sampler
from engine.steps import Schedule, spaced
from engine.windows import windows

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module", autouse=True)
def one_thread():  # type: ignore[no-untyped-def]
    """Networks this small only lose by sharing their work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "data" / "mya-golden"


def networks(golden: Path, control_scale: float):  # type: ignore[no-untyped-def]
    from engine.networks.diffusion import StructureGuided

    parts = golden / "ckpt" / "body"
    unet = diffusers.UNet2DConditionModel.from_pretrained(parts, subfolder="unet")
    controlnet = diffusers.ControlNetModel.from_pretrained(parts, subfolder="controlnet")
    return StructureGuided(unet.eval(), controlnet.eval(), None, control_scale)


def frames_first(array: np.ndarray):  # type: ignore[no-untyped-def]
    """(1, C, T, h, w) to torch (T, C, h, w)."""
    return torch.from_numpy(array[0]).transpose(0, 1).contiguous()


def test_one_evaluation_of_a_window(golden: Path) -> None:
    given, said = np.load(golden / "inputs.npz"), np.load(golden / "golden.npz")
    model = networks(golden, control_scale=2.0)
    model.set_window(8, "window")
    sample = frames_first(said["eval_in"])
    condition = torch.from_numpy(given["condition"][:8])
    with torch.no_grad():
        prediction = model(sample, torch.full((8,), 500), condition, torch.from_numpy(given["appearance"]))
    np.testing.assert_allclose(prediction.numpy(), frames_first(said["eval_eps"]).numpy(), atol=1e-3)


def test_four_steps_over_the_whole_clip(golden: Path) -> None:
    """Windows 8/4, guidance 3.5, 21 frames: short windows of 5 and 1 frames trail."""
    given, said = np.load(golden / "inputs.npz"), np.load(golden / "golden.npz")
    model = networks(golden, control_scale=1.0)
    condition = torch.from_numpy(given["condition"])
    tokens = torch.from_numpy(np.concatenate([given["unconditional"], given["appearance"]]))
    schedule = Schedule()
    sampler = Sampler(schedule, spaced(schedule, 4), "epsilon", guidance=3.5)

    def predict(latents, frames, step):  # type: ignore[no-untyped-def]
        n = len(frames)
        model.set_window(n, "window")
        sample, seen = latents.repeat(2, 1, 1, 1), condition[frames.start : frames.stop].repeat(2, 1, 1, 1)
        said = model(sample, torch.full((2 * n,), sampler.times.now[step]), seen, tokens.repeat_interleave(n, dim=0))
        return said.reshape(2, n, *said.shape[1:])

    with torch.no_grad():
        latents = offline(frames_first(given["latents"]), predict, sampler, windows(21, 8, 4))
    wanted = frames_first(said["ddim4_ws8_os4"]).numpy()
    assert np.abs(latents.numpy() - wanted).max() <= 1e-3
