"""The torch runtime against the modules themselves, what it captures and replays, and other avatars' weights in what runs already."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import pose_frame
from small_avatar import write_avatar
from torch.utils._python_dispatch import TorchDispatchMode

from engine.avatar import Avatar, Mode, bundled_avatar
from engine.errors import InputError
from engine.given import READERS, Given
from engine.network import hosted
from engine.networks import folder as stored
from engine.picture import Picture
from export import runtime
from export.avatar import export_avatar
from export.graphs import arrays, graphs
from export.live import open_live
from export.runtimes import torch_modules, torch_way
from export.runtimes.torch import TorchNetwork, refit
from export.runtimes.torch_way import Capture, Outputs, by_hand, cuda_graph, way_of
from export.seam import Source
from export.verify import batches, loaded

GRAPHS = ("body", "body_w3", "body_bank", "hint", "decoder", "encoder", "face", "hand_decoder")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The number of threads is the whole process's."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another avatar of the same configuration as `exported`."""
    folder = tmp_path_factory.mktemp("other")
    write_avatar(folder, seed=1)
    export_avatar(folder / "avatar")
    return folder / "avatar"


def opened(folder: Path, names: tuple[str, ...] = GRAPHS, precision: str = "f32", **more: Any) -> dict[str, Any]:
    return runtime.load(folder, names, "torch", precision, 1, **more)


def sources(folder: Path, names: tuple[str, ...] = GRAPHS) -> dict[str, Source]:
    return runtime.sources(folder, names, runtime.opened("torch", "f32")[0], "f32")


def inputs_of(network: TorchNetwork, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ones of everything that it is told."""
    rng = np.random.default_rng(seed)
    kinds: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
        "condition": lambda shape: rng.integers(0, 256, shape, np.uint8),
        "image": lambda shape: rng.integers(0, 256, shape, np.uint8),
        "timestep": lambda shape: np.full(shape, 999, np.int64),
        "filled": lambda shape: np.ones(shape, np.int64),
    }
    plain = partial(rng.standard_normal, dtype=np.float32)
    return {name: kinds.get(name, plain)(shape) for name, shape in network.inputs.items()}  # type: ignore[operator]


def answers(networks: Mapping[str, TorchNetwork]) -> dict[str, dict[str, np.ndarray]]:
    """What each says to the same random inputs."""
    return {
        name: {key: array.copy() for key, array in hosted(network, **inputs_of(network)).items()}
        for name, network in networks.items()
    }


def same(a: Mapping[str, Mapping[str, np.ndarray]], b: Mapping[str, Mapping[str, np.ndarray]]) -> list[bool]:
    assert a.keys() == b.keys()
    return [all(np.array_equal(array, b[name][key]) for key, array in said.items()) for name, said in a.items()]


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
def test_every_graph_says_what_its_modules_say(exported: Path, precision: str) -> None:
    """All of them loaded at once, each for one frame and for several: they share weights, but not how these are run."""
    every = list(Avatar.load(exported).networks)
    keep = opened(exported, tuple(name for name in every if not name.endswith("_windows")), precision)
    checked = 0
    for graph in graphs(Avatar.load(exported), stored.load(exported), seed=5):
        for batch in batches(graph):
            inputs = arrays(graph.of(batch))
            inputs = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
            truth = graph.computed(inputs)
            network = loaded(exported, graph, batch, "torch", precision, 1, None)
            for name, said in hosted(network, **inputs).items():
                assert said.dtype == truth[name].dtype and said.shape == network.outputs[name]
                if precision == "f32":
                    assert np.array_equal(said, truth[name]), graph.name
                want = truth[name].astype(np.float64)
                assert np.linalg.norm(said - want) <= 2e-2 * np.linalg.norm(want), (graph.name, name)
                checked += 1
    assert keep and checked > 2 * len(every) - 6


@pytest.mark.parametrize(("mode", "context"), [("bank", None), ("causal", 1)])
def test_the_live_engine_paints_what_another_runtime_paints(exported: Path, mode: Mode, context: int | None) -> None:
    def show(name: str) -> list[Picture]:
        engine = open_live(Avatar.load(exported), name, "f32", 1, steps=2, mode=mode, context=context)
        return [p for i in range(4) for p in engine.feed(pose_frame(i * 40_000_000, i))]

    for ours, theirs in zip(show("torch"), show("onnxruntime"), strict=True):
        assert np.abs(ours.image.astype(int) - theirs.image.astype(int)).max() <= 1


def test_an_avatar_is_read_once_as_long_as_it_is_in_use(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    reads: list[Path] = []
    monkeypatch.setattr(stored, "load", lambda folder, plain=stored.load: reads.append(folder) or plain(folder))
    first = opened(exported, ("body", "hint"))
    later = opened(exported, ("body_w2", "body_bank"))
    assert len(reads) == 1
    weights = [n.graph.module.graph.unet.conv_in.weight.data_ptr() for n in (first["body"], *later.values())]
    assert len(set(weights)) == 1
    half = opened(exported, ("body",), "bf16")
    assert len(reads) == 2
    assert half["body"].graph.module.graph.unet.conv_in.weight.dtype == torch.bfloat16
    assert first["body"].graph.module.graph.unet.conv_in.weight.dtype == torch.float32
    del first, later, half  # and their memory is free at once, without a search for cycles
    assert not [key for key in torch_modules._in_use() if key[0].startswith(str(exported.resolve()))]
    opened(exported, ("hint",))
    assert len(reads) == 3


class Counted:
    """A Capture that counts, and how often what it captured is run again."""

    def __init__(self, capture: Capture) -> None:
        self.capture, self.captures, self.replays = capture, 0, 0

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        self.captures += 1
        replay, outputs = self.capture(run)

        def counted() -> None:
            self.replays += 1
            replay()

        return counted, outputs


def test_a_graph_is_captured_once_and_replayed_in_its_own_memory(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(by_hand)
    monkeypatch.setattr(torch_way, "by_hand", counted)
    networks = opened(exported)
    assert (counted.captures, counted.replays) == (len(GRAPHS), 0)
    for network in networks.values():
        where = [x.data_ptr() for x in (*network._given.values(), *network._said.values())]
        answers({"": network})
        answers({"": network})
        assert where == [x.data_ptr() for x in (*network._given.values(), *network._said.values())]
    assert (counted.captures, counted.replays) == (len(GRAPHS), 2 * len(GRAPHS))


class Strict(TorchDispatchMode):
    """Refuses what a GPU cannot capture: reading a value back, and arrays that are made of Python's numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.lift_fresh.default), func
        return func(*args, **(kwargs or {}))


def test_what_is_captured_can_be(exported: Path) -> None:
    every = tuple(name for name in Avatar.load(exported).networks if name not in READERS and name != "body_windows")
    for network in opened(exported, (*every, "body_w3")).values():
        with Strict(), torch.no_grad():
            network.graph.module(*network._given.values())
    with pytest.raises(AssertionError, match="lift_fresh"), Strict():
        torch.tensor([1.0, 2.0])


def test_only_a_gpu_compiles_and_captures_and_only_what_runs_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for graph in ("body_bank", "appearance"):
        way = way_of(graph, "cpu", "f32")
        assert (way.home.device.type, way.compiled, way.capture) == ("cpu", False, by_hand)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for precision, exact in (("f32", True), ("bf16", False)):
        way = way_of("body_bank", "auto", precision)
        assert (way.home.device.type, way.compiled) == ("cuda", True)
        assert way.capture.func is cuda_graph and way.capture.keywords == {"exact": exact}  # type: ignore[attr-defined]
    for reader in READERS:
        way = way_of(reader, "cuda", "bf16")
        assert (way.home.device.type, way.compiled, way.capture) == ("cuda", False, by_hand)
    assert way_of("body", "cpu", "f32").home.device.type == "cpu"


def test_devices_that_are_not_there_are_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"expected cuda \| cpu \| eager, got abacus"):
        runtime.load(exported, ["hint"], "torch:abacus", "f32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="expected a GPU, and a build for it"):
        runtime.load(exported, ["hint"], "torch:cuda", "f32")
    assert runtime.load(exported, ["hint"], "torch:cpu", "f32")["hint"]
    with pytest.raises(InputError, match="body is a graph for 1, not for 3"):
        module, options = runtime.opened("torch", "f32")
        runtime.loaded(module, replace(sources(exported)["body"], batch=3), options, lambda shapes: {})


def test_another_avatar_in_what_runs_already(exported: Path, other: Path) -> None:
    networks = opened(exported)
    before, fresh = answers(networks), answers(opened(other))
    assert not any(same(before, fresh))
    where = {name: (network._replay, [*network._given.values()]) for name, network in networks.items()}
    refit(networks, sources(other))
    assert all(same(answers(networks), fresh))
    for name, network in networks.items():
        assert network._replay is where[name][0]
        assert all(a is b for a, b in zip(network._given.values(), where[name][1], strict=True))
    assert all(same(answers(opened(exported)), before))  # what is loaded now is the folder's, not what was refitted
    refit(networks, sources(exported))
    assert all(same(answers(networks), before))


def test_with_another_avatar_what_never_changes_changes_too(exported: Path, other: Path) -> None:
    def given(folder: Path) -> Given:
        avatar = Avatar.load(folder)
        return Given(avatar.with_steps(1), opened(folder, tuple(n for n in avatar.networks if n in READERS)))

    networks, new = opened(exported, fixed=given(exported)), given(other)
    refit(networks, sources(other), new)
    assert all(same(answers(networks), answers(opened(other, fixed=new))))
    assert not np.array_equal(new("body", {**networks["body"].inputs, **shapes(networks["body"])})["appearance"],
                              given(exported)("body", shapes(networks["body"]))["appearance"])  # fmt: skip
    assert np.array_equal(networks["body"].fixed["appearance"], new("body", shapes(networks["body"]))["appearance"])


def shapes(network: TorchNetwork) -> dict[str, tuple[int, ...]]:
    return network.shapes()


def test_an_avatar_that_differs_by_more_than_weights_is_refused(exported: Path, other: Path) -> None:
    networks = opened(exported, ("body", "decoder"))
    before = answers(networks)
    with pytest.raises(InputError, match=r"anchor: .*expected (shape \(.*\)|no such weight), got"):
        refit(networks, sources(bundled_avatar(), ("body", "decoder")))
    found = sources(other, ("body", "decoder"))
    with pytest.raises(InputError, match="that of avatar, but for weights, got another"):
        refit(networks, {**found, "decoder": replace(found["decoder"], structure="another")})
    with pytest.raises(InputError, match="inputs that never change: expected none, got sample"):
        refit(networks, found, lambda graph, shapes: {"sample": np.zeros(shapes["sample"])} if graph == "body" else {})
    with pytest.raises(InputError, match="a_graph, got no such graph"):
        refit(networks, {**found, "body": replace(found["body"], graph="a_graph")})
    assert all(same(answers(networks), before))  # nothing of it was written


@pytest.mark.slow
def test_compiled_it_says_the_same_and_is_refitted_without_compiling_again(
    exported: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By inductor on the CPU: what a GPU does, but for its kernels and its capture."""
    names = ("body_bank", "decoder")
    plain, fresh = answers(opened(exported, names)), answers(opened(other, names))
    monkeypatch.setattr(
        "export.runtimes.torch.way_of", lambda graph, provider, precision: replace(way_of(graph, "cpu", precision), compiled=True)
    )  # fmt: skip
    torch._dynamo.reset()
    networks = opened(exported, names)
    graphs_before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs_before >= len(names)

    def close(want: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        for name, said in answers(networks).items():
            for key, array in said.items():
                truth = want[name][key].astype(np.float64)
                assert np.linalg.norm(array - truth) <= 1e-4 * np.linalg.norm(truth) + 1e-9, (name, key)

    close(plain)
    refit(networks, sources(other, names))
    close(fresh)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs_before


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["f32", "f16", "bf16"])
def test_on_a_gpu_it_says_the_same(exported: Path, other: Path, precision: str) -> None:
    tolerance = 1e-4 if precision == "f32" else 2e-2
    networks = runtime.load(exported, GRAPHS, "torch:cuda", precision)
    for folder in (exported, other):
        if folder == other:
            refit(networks, sources(other))
        for name, said in answers(
            opened(
                folder,
                precision="f32",
            )
        ).items():
            ours = answers({name: networks[name]})[name]
            for key, truth in said.items():
                want = truth.astype(np.float64)
                assert np.linalg.norm(ours[key] - want) <= tolerance * np.linalg.norm(want), (name, key)
