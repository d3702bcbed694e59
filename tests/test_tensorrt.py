"""TensorRT's runtime on a fake of its bindings that computes: what is built, kept, refitted, captured and replayed, and refused."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_tensorrt import FakeTensorRT
from onnx import TensorProto, helper
from processor import Processor

from engine.avatar import Avatar
from engine.errors import InputError
from engine.given import READERS, Given
from engine.networks.folder import spans
from export import runtime
from export.cache import EngineCache
from export.golden import Golden, filled
from export.manifest import Manifest
from export.runtimes import tensorrt
from export.seam import Options, Source
from export.trt import engines, kit, running
from export.trt.building import build
from export.trt.kit import Kit

VERSIONS = ("10.16.1.11", "11.4.0.106")


@dataclass
class Bench:
    """A fake of one version, its memory, and a cache, for graphs of one avatar."""

    trt: FakeTensorRT
    device: Processor
    options: Options
    folder: Path

    @classmethod
    def of(cls, folder: Path, cache: Path, trt: FakeTensorRT) -> Bench:
        return cls(trt, Processor(trt), Options("f16", None, EngineCache(cache)), folder)

    @property
    def kit(self) -> Kit:
        return Kit("tensorrt", self.trt, "f16", self.trt._made.device)

    def source(self, name: str) -> Source:
        """The float32 graph, which the fake computes exactly as ONNX Runtime does."""
        name, _, batch = name.partition("_w")
        name = "body_windows" if name == "body" and batch else name
        file = self.folder / f"{name}.onnx"
        digests = [hashlib.sha256(raw).hexdigest() for raw in (onnx.load(file).SerializeToString(), file.read_bytes())]
        return Source(self.folder, name, file, *digests, int(batch or 1))

    def load(self, name: str, fixed: Any = lambda shapes: {}) -> running.TensorRTNetwork:
        return running.load(self.kit, self.source(name), self.options, fixed, lambda: self.device)


@pytest.fixture(params=VERSIONS)
def bench(request: pytest.FixtureRequest, exported: Path, tmp_path: Path) -> Bench:
    return Bench.of(exported, tmp_path / "engines", FakeTensorRT(request.param))


def random_inputs(network: Any, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: np.full(shape, 999 if name == "timestep" else 1) if name in ("timestep", "filled")
        else rng.integers(0, 256, shape, dtype=np.uint8) if name in ("condition", "image")
        else rng.standard_normal(shape, np.float32)
        for name, shape in network.inputs.items()
    }  # fmt: skip


def same(said: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> bool:
    """But for the order of sums: ONNX Runtime knows its inputs' sizes before it plans, here it does not."""
    assert said.keys() == truth.keys()
    return all(
        np.allclose(said[n].astype(float), truth[n], atol=1.0 if truth[n].dtype == np.uint8 else 1e-4) for n in truth
    )


@pytest.mark.parametrize("name", ["hint", "decoder", "body", "body_w2", "body_bank", "face", "face_w3", "hand_encoder"])
def test_networks_say_what_onnxruntime_says(bench: Bench, name: str) -> None:
    network, truth = bench.load(name), runtime.load(bench.folder, [name], "onnxruntime", "f32", 1)[name]
    if name == "hand_encoder":  # the manifest says that it is run for two
        truth = runtime.load(bench.folder, ["hand_encoder_w1"], "onnxruntime", "f32", 1)["hand_encoder_w1"]
    assert dict(network.inputs) == dict(truth.inputs) and dict(network.outputs) == dict(truth.outputs)
    for seed in range(3):  # the first computes, the others are replayed
        inputs = random_inputs(truth, seed)
        assert same(network(**inputs), truth(**inputs))
    assert bench.device.captures == 1 and bench.device.replays == 2


def test_after_the_first_call_nothing_is_allocated(bench: Bench) -> None:
    networks = [bench.load(name) for name in ("hint", "decoder")]
    each = [[random_inputs(network, seed) for seed in range(4)] for network in networks]
    for network, inputs in zip(networks, each, strict=True):
        network(**inputs[0])
    device = bench.device
    allocations, waits, copies = device.allocations, device.waits, device.copies
    assert device.captures == 2 and device.replays == 0
    pictures = {networks[1](**each[1][i % 4])["image"].tobytes() for i in range(100)}
    for i in range(100):
        networks[0](**each[0][i % 4])
    assert device.allocations == allocations
    assert device.captures == 2 and device.replays == 200
    assert device.waits - waits == 200  # one a call
    moved = sum(len(network.inputs) + len(network.outputs) for network in networks)
    assert device.copies - copies == 100 * moved
    assert len(pictures) == 4


def test_outputs_lie_in_the_same_memory_every_time(bench: Bench) -> None:
    network = bench.load("decoder")
    inputs = random_inputs(network)
    first = network(**inputs)["image"]
    kept = first.copy()
    other = network(**{name: -array for name, array in inputs.items()})["image"]
    assert np.shares_memory(first, other) and not np.array_equal(kept, other)
    assert np.array_equal(network(**inputs)["image"], kept)


def test_scratch_memory_is_one_for_all_and_as_large_as_the_largest_needs(bench: Bench) -> None:
    made, device = bench.trt._made, bench.device
    inputs, said = {}, {}
    networks = {}
    for name, scratch in (("decoder", 5_000), ("hint", 300), ("body", 70_000), ("encoder", 70_000)):
        made.scratch = scratch
        networks[name] = bench.load(name)
        inputs[name] = random_inputs(networks[name])
        said[name] = {n: array.copy() for n, array in networks[name](**inputs[name]).items()}
    shared = bench.options.together["tensorrt"]
    assert len(shared.scratch) == 70_000
    memories = {network._context._scratch for network in networks.values()}
    assert memories == {(device.address(shared.scratch), 70_000)}
    assert device.captures == 4
    for name, network in networks.items():  # those that were captured in smaller memory are captured anew
        assert same(network(**inputs[name]), said[name])
    assert device.captures == 6 and device.replays == 2
    for name, network in networks.items():
        assert same(network(**inputs[name]), said[name])
    assert device.captures == 6 and device.replays == 6


def test_graphs_that_do_not_run_together_share_nothing(bench: Bench) -> None:
    one = bench.load("hint")
    bench.options = replace(bench.options, together={})
    other = bench.load("hint")
    assert one._context._scratch[0] != other._context._scratch[0]


def test_what_lies_on_the_device_does_not_travel(bench: Bench) -> None:
    """Latents of one graph are another's input: they need not come to the host between them."""
    network = bench.load("decoder")
    inputs = random_inputs(network)
    truth = {n: array.copy() for n, array in network(**inputs).items()}
    there = bench.device.allocate(network.inputs["latents"], np.float32)
    there[...] = inputs["latents"]
    before = bench.device.from_host
    said = network.compute({**inputs, "latents": there})
    assert bench.device.from_host - before == len(inputs) - 1
    bench.device.wait()
    assert all(bench.device.holds(array) for array in said.values())
    assert all(np.array_equal(array, truth[name]) for name, array in said.items())
    with pytest.raises(ValueError, match=r"latents is \(1, 8, 8, 8\), not \(1, 8, 8, 9\)"):
        network.compute({**inputs, "latents": bench.device.allocate((1, 8, 8, 9), np.float32)})
    with pytest.raises(TypeError):
        network.compute({**inputs, "latents": bench.device.allocate((1, 8, 8, 8), np.int64)})


def test_what_never_changes_is_written_once(bench: Bench) -> None:
    avatar = Avatar.load(bench.folder)
    readers = runtime.load(bench.folder, [n for n in avatar.networks if n in READERS], "onnxruntime", "f32", 1)
    given = Given(avatar.with_steps(1), readers)
    plain, fixed = bench.load("body"), bench.load("body", lambda shapes: given("body", shapes))
    constants = given("body", plain.inputs)
    assert set(fixed.fixed) == set(constants) == {"appearance", "timestep", "sample"}
    assert set(fixed.inputs) == set(plain.inputs) - set(constants)
    for seed in range(3):
        inputs = random_inputs(fixed, seed)
        before = bench.device.from_host
        said = fixed(**inputs)
        assert bench.device.from_host - before == len(inputs)
        assert same(said, plain(**inputs, **constants))
    with pytest.raises(ValueError, match="sample is"):
        bench.load("body", lambda shapes: {"sample": np.zeros((1, 2), np.float32)})


def test_wrong_inputs_are_refused(bench: Bench) -> None:
    network = bench.load("hint")
    with pytest.raises(ValueError, match="condition, not picture"):
        network(picture=np.zeros((1, 128, 128, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(1, 128, 128, 3\), not \(1, 64, 128, 3\)"):
        network(condition=np.zeros((1, 64, 128, 3), np.uint8))
    with pytest.raises(TypeError):
        network(condition=np.zeros((1, 128, 128, 3), np.float32))


def test_stages_may_call_from_their_own_threads(bench: Bench) -> None:
    networks = {name: bench.load(name) for name in ("hint", "decoder", "encoder")}
    inputs = {name: random_inputs(network) for name, network in networks.items()}
    truth = {n: {o: a.copy() for o, a in network(**inputs[n]).items()} for n, network in networks.items()}
    wrong: list[str] = []

    def run(name: str) -> None:
        for _ in range(30):
            if not all(np.array_equal(array, truth[name][o]) for o, array in networks[name](**inputs[name]).items()):
                wrong.append(name)

    threads = [threading.Thread(target=run, args=[name]) for name in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_engine_is_built_once(bench: Bench) -> None:
    bench.load("hint")
    made, cache = bench.trt._made, bench.options.cache
    assert made.built == 1
    (key,) = cache.keys()
    assert key == engines.key_of(bench.kit, bench.source("hint"))
    assert (key.runtime, key.version, key.device, key.precision) == ("tensorrt", bench.trt.__version__, "sm89", "f16")
    again = Bench.of(bench.folder, cache.root, FakeTensorRT(bench.trt.__version__))  # another process
    again.load("hint")
    assert again.trt._made.built == 0
    again.load("face_w2")
    again.load("face_w3")
    assert again.trt._made.built == 2 and len(list(cache.keys())) == 3
    (cache.root / key.id / engines.PLAN).write_bytes(b"another")
    with pytest.raises(InputError, match="content: expected what was written"):
        again.load("hint")


def test_every_version_and_gpu_has_engines_of_its_own(bench: Bench, tmp_path: Path) -> None:
    bench.load("hint")
    for fake in (FakeTensorRT("10.13.0.35"), FakeTensorRT(bench.trt.__version__, "sm120")):
        other = Bench.of(bench.folder, tmp_path / "engines", fake)
        other.load("hint")
        assert fake._made.built == 1
        plan = next((tmp_path / "engines").glob(f"{engines.key_of(bench.kit, bench.source('hint')).id}/*.plan"))
        wanted = f"engine: expected one of tensorrt {fake.__version__} for {fake._made.device}, got another version's or GPU's"
        with pytest.raises(InputError, match=rf"{wanted} \(run the export again\)"):
            engines.opened(other.kit, plan.read_bytes(), str(plan))
    with pytest.raises(InputError, match="run the export again"):
        engines.opened(bench.kit, b"no engine", "hint")


def test_what_was_measured_is_remembered(bench: Bench) -> None:
    bench.load("hint")
    bench.load("decoder")
    timings = bench.trt._made.timings
    assert timings[0] == b"" and timings[1].endswith(b"|+measured")
    cache = bench.options.cache
    (note,) = [path for path in cache.root.iterdir() if path.is_file()]
    assert note.name == f"timing-tensorrt-{bench.trt.__version__}-sm89"
    assert note.read_bytes().endswith(b"|+measured+measured")
    for damaged in (b"damaged", b"9.0 sm70|+measured"):
        note.write_bytes(damaged)
        build_count = bench.trt._made.built
        bench.load("face_w2" if damaged == b"damaged" else "face_w3")
        assert bench.trt._made.built == build_count + 1
        assert note.read_bytes() == f"{bench.trt.__version__} sm89|+measured".encode()


def finetuned(folder: Path, to: Path, weight: str = "conv_out.weight") -> Path:
    """A copy of an avatar with one weight of its body negated: another avatar of the same structure."""
    shutil.copytree(folder, to)
    file = to / "body/unet/diffusion_pytorch_model.safetensors"
    _, _, offset, length = spans(file)[weight]
    raw = bytearray(file.read_bytes())
    raw[offset + 1 : offset + length : 2] = bytes(byte ^ 0x80 for byte in raw[offset + 1 : offset + length : 2])
    file.write_bytes(raw)
    return to


def in_onnxruntime(folder: Path, inputs: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "body.onnx", providers=["CPUExecutionProvider"])
    return {"prediction": session.run(["prediction"], inputs)[0]}


def test_a_finetuned_avatar_is_given_another_avatars_engine(bench: Bench, tmp_path: Path) -> None:
    first = bench.load("body")
    inputs = random_inputs(first)
    other = replace(bench, folder=finetuned(bench.folder, tmp_path / "other"))
    network = other.load("body")
    assert bench.trt._made.built == 1  # refitted, not built
    truth = in_onnxruntime(other.folder, inputs)
    assert same(network(**inputs), truth)
    assert not same(first(**inputs), truth) and same(first(**inputs), in_onnxruntime(bench.folder, inputs))
    cache = bench.options.cache
    assert len(list(cache.keys())) == 2
    again = Bench.of(other.folder, cache.root, FakeTensorRT(bench.trt.__version__))
    assert same(again.load("body")(**inputs), truth) and again.trt._made.built == 0
    cache.drop(engines.key_of(bench.kit, bench.source("body")))
    third = replace(
        again, folder=finetuned(other.folder, tmp_path / "third")
    )  # the first one's weights, of the second one's engine
    again.options.cache.drop(engines.key_of(again.kit, third.source("body")))
    assert same(third.load("body")(**inputs), in_onnxruntime(bench.folder, inputs)) and third.trt._made.built == 0


def test_weights_that_were_exchanged_are_confirmed(bench: Bench, tmp_path: Path) -> None:
    """By what the avatar's own graph must give, before anything is painted."""
    bench.load("body")
    other = replace(bench, folder=finetuned(bench.folder, tmp_path / "other"))
    own = Manifest.load(bench.folder).graphs["body"].golden
    assert own is not None
    theirs = Golden.of(arrays_like(own, bench.load("body").inputs), lambda inputs: in_onnxruntime(other.folder, inputs))

    def load(golden: Golden) -> running.TensorRTNetwork:
        source = replace(other.source("body"), golden=golden)
        fixed = lambda shapes: {"timestep": np.full(shapes["timestep"], 999)}  # noqa: E731
        return running.load(other.kit, source, other.options, fixed, lambda: other.device)

    before = set(bench.options.cache.keys())
    with pytest.raises(InputError, match=r"goldens: expected the numbers of the exported graph.*where f16 may be"):
        load(own)
    assert set(bench.options.cache.keys()) == before  # what is wrong is not kept
    assert "timestep" in load(theirs).fixed and "timestep" in load(theirs).fixed  # made, and found again
    assert bench.trt._made.built == 1


def arrays_like(golden: Golden, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return filled(golden.inputs, shapes)


class DeviceHome:
    """Arrays of the stand-in's device."""

    def __init__(self, device: Processor) -> None:
        self.device = device

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self.device.allocate(shape, dtype)

    def put(self, array: np.ndarray) -> np.ndarray:
        there = self.device.allocate(array.shape, array.dtype)
        there[...] = array
        return there

    def host(self, array: np.ndarray) -> np.ndarray:
        assert self.device.holds(array)
        return array.copy()


def test_outputs_stay_on_a_device_that_is_home(bench: Bench) -> None:
    """And are the next call's inputs, without a way through the host."""
    truth = runtime.load(bench.folder, ["hint", "body"], "onnxruntime", "f32", 1)
    device = bench.device
    device.home = DeviceHome(device)
    hint, body = bench.load("hint"), bench.load("body")
    pictures, inputs = random_inputs(hint), random_inputs(body)
    inputs["hint16"] = truth["hint"](**pictures)["hint16"]
    expected = truth["body"](**inputs)["prediction"]
    others = {name: device.home.put(array) for name, array in inputs.items() if name != "hint16"}
    for _ in range(3):
        before = device.from_host, device.copies
        said = hint(**pictures)
        assert device.holds(said["hint16"])
        prediction = body(hint16=said["hint16"], **others)["prediction"]
        assert device.from_host == before[0] + 1  # the picture
        assert device.copies == before[1] + 1 + len(body.inputs)  # nothing came back
        assert np.allclose(device.home.host(prediction), expected, atol=1e-4)


def test_an_engine_that_does_not_take_all_weights_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.load("body")
    other = replace(bench, folder=finetuned(bench.folder, tmp_path / "other"))
    model = onnx.load(other.folder / "body.onnx", load_external_data=False)
    lost = next(t for t in model.graph.initializer if t.name.startswith("unet.conv_out.weight"))
    for node in model.graph.node:
        node.input[:] = ["elsewhere" if name == lost.name else name for name in node.input]
    lost.name = "elsewhere"
    onnx.save(model, other.folder / "body.onnx")
    source = replace(other.source("body"), structure=bench.source("body").structure)
    with pytest.raises(
        InputError, match=r"body\.onnx: weights: expected all those of an engine .* got none for unet\.conv_out"
    ):
        running.load(other.kit, source, other.options, lambda shapes: {}, lambda: other.device)
    cache = bench.options.cache
    assert len(list(cache.keys())) == 1  # nothing half-refitted


def test_an_engine_that_cannot_be_refitted_is_refused(bench: Bench) -> None:
    built = build(bench.kit, bench.source("body").file, refit=False)
    with pytest.raises(InputError, match="not refittable"):
        engines.refitted(bench.kit, built.plan, bench.source("body").file)


def test_a_damaged_engine_of_the_same_structure_is_passed_over(bench: Bench, tmp_path: Path) -> None:
    bench.load("body")
    cache = bench.options.cache
    (cache.root / engines.key_of(bench.kit, bench.source("body")).id / engines.PLAN).write_bytes(b"damaged")
    other = replace(bench, folder=finetuned(bench.folder, tmp_path / "other"))
    other.load("body")
    assert bench.trt._made.built == 2


def test_the_build_tells_how_far_it_is_and_can_be_stopped(bench: Bench) -> None:
    told: list[tuple[str, int, int]] = []
    cache = bench.options.cache
    engines.prepare(bench.kit, bench.source("hint"), cache, lambda *said: told.append(said))
    assert told == [("Building engine", step, 5) for step in range(1, 6)]

    def stop(phase: str, step: int, steps: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engines.prepare(bench.kit, bench.source("decoder"), cache, stop)
    assert [key.graph for key in cache.keys()] == ["hint"]  # noqa: SIM118
    assert not list(cache.root.glob(".*"))


def test_all_that_the_parser_refuses_is_one_line(bench: Bench, tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    nodes = [
        helper.make_node(op, [a], [b], name=f"{op}_{i}", domain="of.its.own")
        for i, (op, a, b) in enumerate([("Paint", "x", "z"), ("Varnish", "z", "y")])
    ]
    graph = helper.make_graph(nodes, "g", [x], [y])
    domains = [helper.make_opsetid("", 23), helper.make_opsetid("of.its.own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains), tmp_path / "wrong.onnx")
    with pytest.raises(InputError) as refusal:
        build(bench.kit, tmp_path / "wrong.onnx")
    line = str(refusal.value)
    assert "wrong.onnx: graph: expected one that TensorRT parses" in line and "\n" not in line
    assert "Paint_0: Plugin not found: Paint; Varnish_1: Plugin not found: Varnish" in line
    with pytest.raises(InputError, match="No such file"):
        build(bench.kit, tmp_path / "missing.onnx")


def test_without_a_gpu_or_bindings_it_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "gpus", tuple)
    with pytest.raises(InputError, match="tensorrt: expected an NVIDIA GPU, got none"):
        tensorrt.load(bench.source("hint"), bench.options, lambda shapes: {})
    with pytest.raises(InputError, match="package: expected no_such_tensorrt or no_such_bindings, got neither"):
        kit.bindings("no_such_tensorrt", "no_such_bindings")


# What the fake refuses, as the real one does.


def test_the_fake_refuses_the_other_versions_flags() -> None:
    old, new = (FakeTensorRT(version) for version in VERSIONS)
    assert old.BuilderFlag.FP16 and old.NetworkDefinitionCreationFlag.EXPLICIT_BATCH >= 0
    for gone in ("BuilderFlag.FP16", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"):
        name, member = gone.split(".")
        with pytest.raises(AttributeError):
            getattr(getattr(new, name), member)
    with pytest.raises(AssertionError, match="another version"):
        new.Builder(kit.logger(new)).create_network(1 << 1)


def test_the_fake_refuses_what_is_not_settled(bench: Bench) -> None:
    fake, log = bench.trt, kit.logger(bench.trt)
    builder = fake.Builder(log)
    network = builder.create_network(1 << int(fake.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert fake.OnnxParser(network, log).parse_from_file(str(bench.source("face").file))
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert "no optimization profile" in log.line()


def test_the_fake_refuses_to_run_unprepared(bench: Bench) -> None:
    fake, device = bench.trt, bench.device
    log = kit.logger(fake)
    runtime_ = fake.Runtime(log)
    engine = runtime_.deserialize_cuda_engine(build(bench.kit, bench.source("hint").file).plan)
    context = engine.create_execution_context(fake.ExecutionContextAllocationStrategy.USER_MANAGED)

    def refused(match: str) -> None:
        log.errors.clear()
        assert context.execute_async_v3(device.stream) is False and match in log.line()

    refused("no address is set for condition, hint16, hint8, hint4")
    shapes = {
        "condition": (1, 128, 128, 3),
        "hint16": (1, 8, 8, 32),
        "hint8": (1, 16, 16, 16),
        "hint4": (1, 32, 32, 16),
    }
    for name, shape in shapes.items():
        array = device.allocate(shape, np.uint8 if name == "condition" else np.float32)
        assert context.set_tensor_address(name, device.address(array))
        assert not context.set_tensor_address(name, device.address(array) + 4)  # not aligned
    refused("not all input shapes are specified")
    assert not context.set_input_shape("condition", (2, 128, 128, 3))
    assert context.set_input_shape("condition", shapes["condition"])
    refused("no device memory is set")
    small, enough = (device.allocate((size,), np.uint8) for size in (10, engine.device_memory_size_v2))
    context.set_device_memory(device.address(small), 10)
    assert "less than" in log.line()
    refused("no device memory is set")
    context.set_device_memory(device.address(enough), len(enough))
    log.errors.clear()
    with pytest.raises(AssertionError):
        device.capture(lambda: device.wait())
    device.capture(lambda: context.execute_async_v3(device.stream))
    assert "not permitted while a stream captures" in log.line()
    assert context.execute_async_v3(device.stream)
    log.errors.clear()
    replay = device.capture(lambda: context.execute_async_v3(device.stream))
    assert not log.errors
    context.set_device_memory(device.address(device.allocate((len(enough),), np.uint8)), len(enough))
    with pytest.raises(AssertionError, match="replaced"):
        replay()
