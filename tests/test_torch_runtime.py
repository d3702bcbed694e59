"""The runtime torch: what its modules say, weights that are shared by all graphs, and how modules are run on which device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import pose_frame

from engine.avatar import Avatar
from engine.errors import InputError
from export import runtime
from export.live import open_live
from export.runtimes.torch import Loaded, provider
from export.verify import verify

ORDER = ("body", "body_w4", "body_bank", "body", "face", "decoder", "hand")


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
def test_graphs_say_what_their_modules_say(exported: Path, precision: str) -> None:
    rows = list(verify(exported, ["body", "body_windows", "body_bank", "decoder", "hand"], [("torch", precision)], 2))
    assert len(rows) == 10
    assert not [str(row) for row in rows if not row.good]
    if precision == "f32":
        assert max(row.relative for row in rows) < 1e-5  # but for the order of sums
    else:
        assert min(row.relative for row in rows) > 1e-5  # another precision indeed


def test_graphs_of_several_windows_do_not_disturb_each_other(exported: Path) -> None:
    """They share one UNet, and each has told it once how long windows are."""
    alone = {name: runtime.load(exported, [name], "torch", "f32", 1)[name] for name in ORDER}
    together = runtime.load(exported, ORDER, "torch", "f32", 1)
    rng = np.random.default_rng(0)
    for name, network in alone.items():
        inputs = {k: some(rng, k, shape) for k, shape in network.inputs.items()}
        for output, said in network(**inputs).items():
            assert np.array_equal(said, together[name](**inputs)[output])


def test_weights_are_there_once(exported: Path) -> None:
    avatar = Loaded.of(exported, torch.float16, torch.device("cpu"))
    one, other = avatar.graph("body").module, avatar.graph("body_bank").module
    assert {p.data_ptr() for p in one.parameters()} == {p.data_ptr() for p in other.parameters()}
    assert all(p.dtype == torch.float16 for p in one.parameters())
    assert all(p.dtype == torch.float32 for p in avatar.networks.body.parameters())  # as they are stored
    with pytest.raises(KeyError):
        avatar.graph("soul")


def test_an_avatars_networks_are_read_once_for_a_set_of_graphs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(Loaded, "of", classmethod(lambda cls, *a, of=Loaded.of: read.append(a) or of(*a)))  # type: ignore[func-returns-value]
    engine = open_live(Avatar.load(exported), "torch", "f32", threads=2, context=0, mode="causal")
    assert len(engine.feed(pose_frame(0, 0))) == 1 and len(read) == 1


def test_inputs_are_checked(exported: Path) -> None:
    network = runtime.load(exported, ["decoder"], "torch", "f32", 1)["decoder"]
    inputs = {k: np.zeros(shape, np.float32) for k, shape in network.inputs.items()}
    with pytest.raises(ValueError, match="latents"):
        network(**{**inputs, "latents": inputs["latents"][..., 1:]})
    with pytest.raises(TypeError, match="Cannot cast"):
        network(**{**inputs, "latents": inputs["latents"].astype(np.complex64)})


def test_a_gpu_is_captured_and_a_processor_is_eager() -> None:
    assert provider("auto", "cuda") == "captured" and provider("auto", "cpu") == "eager"
    assert provider("compiled", "cpu") == "compiled" and provider("eager", "cuda") == "eager"
    with pytest.raises(InputError, match="an NVIDIA GPU that torch sees, got cpu"):
        provider("captured", "cpu")
    with pytest.raises(InputError, match=r"captured \| compiled \| eager, got abacus"):
        provider("abacus", "cpu")


@pytest.mark.slow
def test_compiled_modules_say_the_same(exported: Path) -> None:
    eager = runtime.load(exported, ["hand_decoder"], "torch:eager", "f32", 2)["hand_decoder"]
    compiled = runtime.load(exported, ["hand_decoder"], "torch:compiled", "f32", 2)["hand_decoder"]
    rng = np.random.default_rng(0)
    inputs = {k: some(rng, k, shape) for k, shape in eager.inputs.items()}
    difference = compiled(**inputs)["image"].astype(int) - eager(**inputs)["image"]
    assert np.abs(difference).max() <= 1


@pytest.mark.gpu
def test_captured_modules_say_the_same(exported: Path) -> None:
    captured = runtime.load(exported, ORDER, "torch:captured", "f32")
    eager = runtime.load(exported, ORDER, "torch:eager", "f32")
    rng = np.random.default_rng(0)
    for _ in range(3):
        for name, network in captured.items():
            inputs = {k: some(rng, k, shape) for k, shape in network.inputs.items()}
            for output, said in eager[name](**inputs).items():
                assert np.allclose(network(**inputs)[output], said, atol=1e-2 * max(1.0, float(np.abs(said).max())))


def some(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name in ("timestep", "filled"):
        return np.full(shape, 1 if name == "filled" else 999, np.int64)
    return rng.standard_normal(shape, np.float32)
