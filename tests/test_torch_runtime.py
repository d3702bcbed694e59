"""The runtime torch: what its modules say, weights that all graphs share, weights that are exchanged, and ways to run on a device."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import pose_frame
from small_avatar import write_avatar

from engine.avatar import Avatar
from engine.errors import InputError
from engine.network import hosted
from export import runtime
from export.avatar import export_avatar
from export.golden import confirm
from export.live import open_live
from export.runtimes import torch as torch_runtime
from export.runtimes.torch_modules import opened, tensors
from export.runtimes.torch_way import by_hand, way_of
from export.verify import verify

ORDER = ("body", "body_w4", "body_bank", "body_w2", "face", "decoder", "hand")


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
    truth = runtime.load(exported, ORDER, "onnxruntime", "f32", 1)
    together = runtime.load(exported, ORDER, "torch", "f32", 1)
    rng = np.random.default_rng(0)
    for name in (*ORDER, *reversed(ORDER)):
        inputs = {k: some(rng, k, shape) for k, shape in together[name].inputs.items()}
        for output, said in hosted(together[name], **inputs).items():
            limit = 1.0 if output == "image" else 1e-4
            assert np.abs(said.astype(float) - truth[name](**inputs)[output]).max() <= limit


def test_weights_are_there_once(exported: Path) -> None:
    modules = opened(exported, "f16", torch.device("cpu"))
    assert opened(exported, "f16", torch.device("cpu")) is modules  # as long as somebody holds it
    one, other = (modules.graphs[name].module for name in ("body", "body_bank"))
    assert {p.data_ptr() for p in one.parameters()} == {p.data_ptr() for p in other.parameters()}
    assert all(p.dtype == torch.float16 for p in one.parameters())


@pytest.fixture(scope="module")
def other(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another avatar of the same configuration: the same graphs, other weights."""
    folder = tmp_path_factory.mktemp("other")
    write_avatar(folder, seed=1)
    export_avatar(folder / "avatar")
    return folder / "avatar"


def test_another_avatars_weights_take_the_place_of_these(exported: Path, other: Path) -> None:
    """In the same memory, by name; what comes out is what the other one's goldens say, to the bit of a fresh load."""
    networks: Any = runtime.load(exported, ORDER, "torch", "f32", 1)
    places = {key: tensor.data_ptr() for key, tensor in tensors(networks["body"].graph.module).items()}
    module, _ = runtime.opened("torch", "f32", 1)
    sources = runtime.sources(other, ORDER, module, "f32")
    golden = sources["body"].golden
    assert golden is not None
    with pytest.raises(InputError, match="goldens"):
        confirm(golden, networks["body"], "f32", "body")
    torch_runtime.refit(networks, sources)
    assert places == {key: tensor.data_ptr() for key, tensor in tensors(networks["body"].graph.module).items()}
    fresh = runtime.load(other, ORDER, "torch", "f32", 1)
    rng = np.random.default_rng(0)
    for name, network in networks.items():
        wanted = sources[name].golden
        assert wanted is not None
        confirm(wanted, network, "f32", name)
        inputs = {k: some(rng, k, shape) for k, shape in network.inputs.items()}
        for output, said in hosted(network, **inputs).items():
            assert np.array_equal(said, hosted(fresh[name], **inputs)[output])
    again = runtime.load(exported, ["body"], "torch", "f32", 1)["body"]  # the first one is still what it was
    first = runtime.sources(exported, ["body"], module, "f32")["body"].golden
    assert first is not None
    confirm(first, again, "f32", "body")


def test_an_avatar_of_another_configuration_is_refused(exported: Path, tmp_path: Path) -> None:
    """And nothing has changed."""
    networks: Any = runtime.load(exported, ["body"], "torch", "f32", 1)
    module, _ = runtime.opened("torch", "f32", 1)
    shutil.copytree(exported, tmp_path / "other")
    source = runtime.sources(exported, ["body"], module, "f32")["body"]
    from dataclasses import replace

    with pytest.raises(InputError, match="but for weights, got another"):
        torch_runtime.refit(networks, {"body": replace(source, structure="another")})
    assert source.golden is not None
    confirm(source.golden, networks["body"], "f32", "body")


def test_the_live_engine_paints_as_in_onnxruntime(exported: Path) -> None:
    avatar = Avatar.load(exported)
    pictures = []
    for name in ("torch", "onnxruntime"):
        engine = open_live(avatar, name, "f32", threads=2, context=0, mode="causal")
        pictures.append([p.image for i in range(3) for p in engine.feed(pose_frame(i * 40_000_000, i))])
    for a, b in zip(*pictures, strict=True):
        difference = np.abs(a.astype(int) - b)
        assert difference.mean() < 0.05 and np.quantile(difference, 0.99) <= 1


def test_a_processor_is_eager_and_its_outputs_stay_where_they_are() -> None:
    way = way_of("body", "auto" if not torch.cuda.is_available() else "cpu", "f16")
    assert (way.home.device.type, way.compiled, way.capture) == ("cpu", False, by_hand)
    with pytest.raises(InputError, match=r"cuda \| cpu \| eager, got abacus"):
        way_of("body", "abacus", "f32")
    runs = []

    def run() -> tuple[torch.Tensor, ...]:
        runs.append(len(runs))
        return (torch.full((2,), float(len(runs))),)

    replay, (said,) = by_hand(run)
    assert said.tolist() == [1.0, 1.0] and len(runs) == 1
    replay()
    assert said.tolist() == [2.0, 2.0] and len(runs) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_cannot_be_asked_for(exported: Path) -> None:
    with pytest.raises(InputError, match=r"a GPU, and a build for it, got torch .* without one"):
        runtime.load(exported, ["hint"], "torch:cuda", "f32")


@pytest.mark.gpu
def test_captured_modules_say_the_same(exported: Path) -> None:
    captured = runtime.load(exported, ORDER, "torch:cuda", "f32")
    eager = runtime.load(exported, ORDER, "torch:cpu", "f32")
    rng = np.random.default_rng(0)
    for _ in range(3):
        for name, network in captured.items():
            inputs = {k: some(rng, k, shape) for k, shape in network.inputs.items()}
            for output, said in hosted(eager[name], **inputs).items():
                got = hosted(network, **inputs)[output].astype(float)
                assert np.linalg.norm(got - said) <= 1e-3 * np.linalg.norm(said.astype(float))


def some(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name in ("timestep", "filled"):
        return np.full(shape, 1 if name == "filled" else 999, np.int64)
    return rng.standard_normal(shape, np.float32)
