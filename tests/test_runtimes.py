"""Running graphs: the seam, what is refused, and the live engine on the real thing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import pose_frame

from engine.avatar import Avatar, Mode
from engine.errors import InputError
from engine.gear import Gear, ladder
from engine.given import READERS, Given
from engine.live import needed
from engine.network import hosted
from engine.networks import folder as stored
from engine.picture import Picture
from export import runtime
from export.graphs import graphs
from export.ladder import describe
from export.live import open_live
from export.verify import usable

RUNTIMES = [info.name for info in describe() if info.usable and info.name != "torch"]  # see test_torch_runtime
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "avatar")
    return tmp_path / "avatar"


def show(
    folder: Path, name: str, precision: str, context: int | None = 0, frames: int = 3, mode: Mode = "causal"
) -> list[Picture]:
    engine = open_live(Avatar.load(folder), name, precision, threads=2, context=context, mode=mode)
    return [p for i in range(frames) for p in engine.feed(pose_frame(i * 40_000_000, i))]


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_network_is_named_arrays_in_and_out(exported: Path, name: str) -> None:
    network = runtime.load(exported, ["decoder"], name, "f32", 1)["decoder"]
    assert dict(network.inputs) == {"latents": (1, 8, 8, 8), "hint8": (1, 16, 16, 16), "hint4": (1, 32, 32, 16)}
    assert dict(network.outputs) == {"image": (1, 128, 128, 3)}
    rng = np.random.default_rng(0)
    given = {k: rng.standard_normal(shape, np.float32) for k, shape in network.inputs.items()}
    first = hosted(network, **given)["image"]
    kept = first.copy()
    other = hosted(network, **{k: -v for k, v in given.items()})["image"]
    assert np.shares_memory(first, other)  # the same memory, every time
    assert not np.array_equal(kept, other)
    assert np.array_equal(hosted(network, **given)["image"], kept)
    there = {k: network.home.put(v) for k, v in given.items()}  # what already lies where it computes
    assert np.array_equal(hosted(network, **there)["image"], kept)


@pytest.mark.parametrize("name", RUNTIMES)
def test_what_never_changes_is_computed_once(exported: Path, name: str) -> None:
    avatar = Avatar.load(exported)
    readers = runtime.load(exported, [n for n in avatar.networks if n in READERS], name, "f32", 1)
    given = Given(avatar.with_steps(1), readers)
    rng = np.random.default_rng(0)
    for graph in ("body", "body_w2", "body_bank", "face", "hand"):
        plain = runtime.load(exported, [graph], name, "f32", 1)[graph]
        fixed = runtime.load(exported, [graph], name, "f32", 1, fixed=given)[graph]
        constants = given(graph, plain.inputs)
        noise = {"sample"} if graph.startswith("body") else set()  # elsewhere what is kept follows it
        assert set(constants) == set(fixed.fixed) == {"appearance", "timestep"} | noise
        assert set(fixed.inputs) == set(plain.inputs) - set(constants)
        for _ in range(3):  # one that reuses the memory of what it computed once is right only the first time
            inputs = {k: rng.standard_normal(shape, np.float32) for k, shape in fixed.inputs.items() if k != "filled"}
            inputs |= {"filled": np.ones(1, np.int64)} if "filled" in fixed.inputs else {}
            expected = hosted(plain, **inputs, **constants)
            for output, said in hosted(fixed, **inputs).items():
                assert np.abs(said - expected[output]).max() < 1e-4 * np.abs(expected[output]).max()
    body = runtime.load(exported, ["body"], name, "f32", 1, fixed=given)["body"]
    with pytest.raises(ValueError, match="body was loaded for another sample"):
        Given(avatar.with_steps(1), readers, seed=1).to("body", body)
    with pytest.raises(ValueError, match="body was loaded for another"):
        Given(avatar.with_steps(2), readers).to("body", body)
    with pytest.raises(InputError, match="nobody"):
        nobody = replace(avatar.with_steps(1), appearance={"body": "nobody.png", "head": "nobody.png"})
        runtime.load(exported, ["body"], name, fixed=Given(nobody, readers))


@pytest.mark.parametrize("name", RUNTIMES)
def test_wrong_inputs_are_refused(exported: Path, name: str) -> None:
    network = runtime.load(exported, ["hint"], name, "f32", 1)["hint"]
    with pytest.raises(ValueError, match="condition, not picture"):
        network(picture=np.zeros((1, 128, 128, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(1, 128, 128, 3\), not \(1, 64, 128, 3\)"):
        network(condition=np.zeros((1, 64, 128, 3), np.uint8))
    with pytest.raises(TypeError):
        network(condition=np.zeros((1, 128, 128, 3), np.float32))  # bytes are wanted: no silent rounding


def test_unknown_runtime_precision_and_graph(exported: Path) -> None:
    with pytest.raises(
        InputError, match=r"auto \| tensorrt \| tensorrt-rtx \| openvino \| onnxruntime \| torch, got abacus"
    ):
        runtime.load(exported, ["hint"], "abacus")
    with pytest.raises(InputError, match=r"precision: expected auto \| f32 \| f16, got bf16"):
        runtime.load(exported, ["hint"], "onnxruntime", "bf16")
    with pytest.raises(InputError, match="no such graph"):
        runtime.load(exported, ["soul"])


def test_files_that_are_not_those_exported_are_refused(copied: Path) -> None:
    weights = copied / "vae" / "diffusion_pytorch_model.safetensors"
    whole, size = weights.read_bytes(), weights.stat().st_size
    weights.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=f"vae.*size: expected {size} bytes, as exported, got {size - 100} bytes"):
        runtime.load(copied, ["decoder"])
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=r"vae.*another file of the same size \(run the export again\)"):
        runtime.load(copied, ["decoder"])
    runtime.load(copied, ["hint"])  # does not refer to it
    weights.unlink()
    with pytest.raises(InputError, match=r"vae.*No such file"):
        runtime.load(copied, ["decoder"])
    (copied / "hint.onnx").write_bytes((copied / "hint.onnx").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"hint\.onnx: size"):
        runtime.load(copied, ["hint"])
    (copied / "graphs.json").write_text('{"graphs": 3}')
    with pytest.raises(InputError, match=r"graphs\.json"):
        runtime.load(copied, ["hint"])


@pytest.mark.parametrize(("context", "mode"), [(0, "causal"), (1, "causal"), (None, "bank")])
def test_the_live_engine_paints_the_same_pictures_again(exported: Path, context: int | None, mode: Mode) -> None:
    first, again = (show(exported, "auto", "auto", context, mode=mode) for _ in range(2))
    assert [p.image.shape for p in first] == [(128, 128, 3)] * 3
    assert first[0].image.std() > 1  # random networks, but no blank
    assert not np.array_equal(first[0].image, first[1].image)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.image, b.image)
    assert set(first[0].stage_ns) == {"body", "condition", "denoise", "decode", "hands", "face"}


@pytest.mark.parametrize(("name", "steps"), [*((name, 1) for name in RUNTIMES), ("auto", 8)])
def test_every_gear_of_the_ladder_is_painted_by_graphs_that_are_loaded(exported: Path, name: str, steps: int) -> None:
    """With what never changes computed beforehand: with one step the time and the noise as well."""
    avatar = Avatar.load(exported).with_mode("bank")
    avatar = replace(avatar, denoise=replace(avatar.denoise, context=1))
    gears = ladder(avatar.with_steps(steps))
    assert len(gears) == (6 if steps == 1 else 7) and gears[-1] == Gear(4 if steps == 8 else None, None, 0, 0, 0)
    engine = open_live(avatar, name, "f32", threads=2, steps=steps, gears=gears)
    engine.warm_up()
    painted = [p for i, gear in enumerate(gears) for p in engine.feed(pose_frame(i * 40_000_000, i), gear)]
    assert [p.gear for p in painted] == list(gears) and painted[-1].skipped == ("hands", "face")
    plain = open_live(avatar, name, "f32", threads=2, steps=gears[-1].steps, context=0, again=(), mode="causal")
    for i, picture in enumerate(painted):
        (bare,) = plain.feed(pose_frame(i * 40_000_000, i))
        assert np.array_equal(picture.image, bare.image) == (len(picture.skipped) == 2)  # the body alone


@pytest.mark.parametrize("way", [w for w in usable() if w[1] == "f32"])
def test_runtimes_paint_nearly_the_same(exported: Path, way: tuple[str, str]) -> None:
    ours, theirs = show(exported, *way), show(exported, "onnxruntime", "f32")
    for a, b in zip(ours, theirs, strict=True):
        difference = np.abs(a.image.astype(int) - b.image.astype(int))
        assert difference.mean() < 0.05
        assert np.quantile(difference, 0.99) <= 1


def test_only_the_graphs_that_are_called_are_needed(exported: Path) -> None:
    avatar = Avatar.load(exported)
    others = {"body", "body_bank", "body_windows"}
    for called, wanted in (
        (needed(avatar, context=0, mode="causal"), "body"),
        (needed(avatar, context=1, mode="causal"), "body_w2"),
        (needed(avatar, mode="bank"), "body_bank"),
        (needed(avatar, mode="exact", window=16, overlap=4), "body_w16"),
        (needed(avatar, mode="offline", window=1, overlap=0), "body"),
    ):
        assert set(called) == set(avatar.networks) - others | {wanted}


@pytest.mark.parametrize("name", RUNTIMES)
def test_one_graph_serves_windows_of_every_length(exported: Path, name: str) -> None:
    """Against torch, at a length that it was not traced with; and a length of its own for each that is loaded."""
    avatar, networks = Avatar.load(exported), stored.load(exported)
    graph = next(g for g in graphs(avatar, networks, seed=3) if g.name == "body_windows")
    loaded = runtime.load(exported, ["body_w2", "body_w7"], name, "f32", 1)
    rng = np.random.default_rng(1)
    for frames, network in ((2, loaded["body_w2"]), (7, loaded["body_w7"])):
        assert network.inputs["sample"][0] == network.outputs["prediction"][0] == frames
        inputs = {
            n: tensor.numpy() if n == "appearance" else np.repeat(tensor.numpy()[:1], frames, 0)
            for n, tensor in graph.inputs.items()
        }
        inputs["sample"] = rng.standard_normal(inputs["sample"].shape, np.float32)
        with torch.no_grad():
            truth = graph.module.eval()(*(torch.from_numpy(a) for a in inputs.values())).numpy()
        assert np.abs(hosted(network, **inputs)["prediction"] - truth).max() < 1e-4 * np.abs(truth).max()
    with pytest.raises(InputError, match="no such graph"):
        runtime.load(exported, ["head_w2"], name)


@pytest.mark.parametrize("name", RUNTIMES)
def test_running_needs_no_training_library(exported: Path, name: str) -> None:
    code = f"""
import sys
from pathlib import Path
from export import runtime
runtime.load(Path({str(exported)!r}), ["hint"], {name!r})
print(sorted({{m.split(".")[0] for m in sys.modules}} & {{"torch", "diffusers", "onnx", "safetensors", "PIL"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
