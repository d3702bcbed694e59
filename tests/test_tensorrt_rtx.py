"""TensorRT-RTX itself, which builds without a GPU: what it takes, what it fuses, and what is refused because it would not.

Running needs a GPU, so what is proven here ends with the engine: its layers are those that it says it was built of.
"""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.avatar import bundled_avatar
from engine.errors import InputError
from export import runtime
from export.avatar import export_avatar
from export.cache import EngineCache
from export.manifest import Manifest
from export.seam import Options, Source
from export.trt import engines, kit
from export.trt.building import Built, build

pytest.importorskip("tensorrt_rtx_bindings", reason="needs the [rtx] extra")
from export.runtimes import tensorrt_rtx as rtx

TYPES = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def attention(
    folder: Path,
    head: int = 40,
    heads: int = 2,
    tokens: int = 16,
    precision: str = "f16",
    masked: bool = False,
    diffusion: bool = True,
) -> Path:
    """A graph of one attention as a diffusion has it: projections, heads, and a timestep that is added."""
    kind, width = TYPES[precision], heads * head
    x = helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["frames", tokens, width])
    inputs, nodes, constants = [x], [helper.make_node("Cast", ["sample"], ["x"], to=kind)], []
    if diffusion:
        inputs.append(helper.make_tensor_value_info("timestep", TensorProto.INT64, [1]))
        nodes += [helper.make_node("Cast", ["timestep"], ["t"], to=kind), helper.make_node("Add", ["x", "t"], ["xt"])]
    rng = np.random.default_rng(0)
    for name in ("query", "key", "value", "out"):
        weight = rng.standard_normal((width, width)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"{name}.stored"))
        nodes.append(helper.make_node("Cast", [f"{name}.stored"], [f"{name}.weight"], to=kind))
    for name, shape in (("split", [0, 0, heads, head]), ("join", [0, 0, width])):
        constants.append(numpy_helper.from_array(np.array(shape), name))
    for name in ("query", "key", "value"):
        nodes += [
            helper.make_node("MatMul", ["xt" if diffusion else "x", f"{name}.weight"], [f"{name}.flat"]),
            helper.make_node("Reshape", [f"{name}.flat", "split"], [f"{name}.split"]),
            helper.make_node("Transpose", [f"{name}.split"], [name], perm=[0, 2, 1, 3]),
        ]
    mask = []
    if masked:
        inputs.append(helper.make_tensor_value_info("seen", TensorProto.BOOL, [tokens, tokens]))
        mask = ["seen"]
    nodes += [
        helper.make_node("Attention", ["query", "key", "value", *mask], ["attended"]),
        helper.make_node("Transpose", ["attended"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "join"], ["joined"]),
        helper.make_node("MatMul", ["joined", "out.weight"], ["said"]),
        helper.make_node("Cast", ["said"], ["prediction"], to=TensorProto.FLOAT),
    ]
    y = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["frames", tokens, width])
    file = folder / "attention.onnx"
    graph = helper.make_graph(nodes, "attention", inputs, [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), file)
    return file


def built(file: Path, frames: int = 1, sm: str = "sm89") -> Built:
    return build(rtx.kit("f16", sm), file, frames)


@pytest.mark.parametrize("precision", ["f16", "bf16"])
@pytest.mark.parametrize("head", [16, 40, 64, 80, 160])
def test_attention_of_half_precision_is_one_kernel(tmp_path: Path, head: int, precision: str) -> None:
    for masked in (False, True):
        engine = built(attention(tmp_path, head, precision=precision, masked=masked), frames=3)
        assert engine.attentions == engine.fused == 1
        assert engine.plan.nbytes > 10_000


@pytest.mark.parametrize("sm", ["sm75", "sm80", "sm86", "sm89", "sm120", "sm121"])
def test_every_architecture_is_built_for(tmp_path: Path, sm: str) -> None:
    assert built(attention(tmp_path), sm=sm).fused == 1


@pytest.mark.parametrize(
    ("shape", "precision", "masked"),
    [
        ({}, "f32", False),
        ({}, "f32", True),
        ({"head": 4}, "f16", False),
        ({"head": 4}, "f16", True),
        ({"head": 8}, "f16", False),
        ({"head": 512}, "f16", False),
        ({"heads": 1}, "f16", False),
        ({"heads": 1}, "f16", True),
        ({"heads": 1, "tokens": 1}, "f16", False),
    ],
)
def test_attention_that_would_fall_apart_is_refused(
    tmp_path: Path, shape: dict[str, int], precision: str, masked: bool
) -> None:
    """The runtime itself builds most of these: as two products with a softmax between them, which nobody asked for."""
    file = attention(tmp_path, precision=precision, masked=masked, **shape)
    with pytest.raises(InputError) as refusal:
        built(file)
    line = str(refusal.value)
    assert (
        f"{file}: attention: expected 1 fused kernels, got " in line and "half precision" in line and "\n" not in line
    )
    assert "got 0" in line or "got a shape that has none" in line


def test_an_autoencoders_attention_may_fall_apart(tmp_path: Path) -> None:
    """Its one head is as wide as its features, 512 in the base model: no kernel is there for that."""
    engine = built(attention(tmp_path, head=512, heads=1, tokens=64, diffusion=False))
    assert (engine.attentions, engine.fused) == (1, 0)


def test_a_graph_that_does_not_parse_is_one_line(tmp_path: Path) -> None:
    model = onnx.load(attention(tmp_path))
    model.graph.node[-2].domain, model.graph.node[-2].op_type = "of.its.own", "Paint"
    model.opset_import.append(helper.make_opsetid("of.its.own", 1))
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(
        InputError, match=r"wrong\.onnx: graph: expected one that TensorRT parses, got .*Paint"
    ) as refusal:
        built(tmp_path / "wrong.onnx")
    assert "\n" not in str(refusal.value)


def test_an_architecture_that_it_does_not_know_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"GPU: expected sm120 \| sm121 \| sm75 .*, got sm90 \(tensorrt serves others\)"
    ):
        rtx.kit("f16", "sm90")


def source(file: Path) -> Source:
    return Source(file.parent, "attention", file, "digest", "structure")


def test_engines_are_built_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx, "gpus", tuple)
    monkeypatch.setattr(kit, "gpus", tuple)
    options, told = Options("f16", None, EngineCache(tmp_path / "engines")), list[float]()
    key = rtx.build(source(attention(tmp_path)), options, told.append)
    folder = options.cache.find(key)
    assert folder is not None
    assert [file.name for file in sorted(folder.iterdir())] == ["engine.json", engines.PLAN]
    assert len(told) > 1 and all(0 < done <= 1 for done in told)
    assert [key] == list(options.cache.keys())
    assert (key.runtime, key.device, key.precision, key.structure) == ("tensorrt-rtx", "sm89", "f16", "")
    told.clear()
    assert rtx.build(source(attention(tmp_path)), options, told.append) == key
    assert not told  # it was there
    assert rtx.build(source(attention(tmp_path)), replace(options, provider="sm120"), told.append).device == "sm120"
    with pytest.raises(InputError, match="tensorrt-rtx: expected an NVIDIA GPU, got none"):
        rtx.load(source(attention(tmp_path)), options, lambda shapes: {})


def test_ctrl_c_stops_a_build_and_leaves_nothing(tmp_path: Path) -> None:
    options = Options("f16", None, EngineCache(tmp_path / "engines"))

    def interrupt(done: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        rtx.build(source(attention(tmp_path)), options, interrupt)
    assert list(options.cache.root.iterdir()) == []


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An avatar of Stable Diffusion 1.5's shape, exported in half precision."""
    from narrow_sd15 import write_narrow

    folder = write_narrow(tmp_path_factory.mktemp("narrow"))
    export_avatar(folder, precision="f16")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["body", "body_w2", "body_w4", "body_bank", "face", "face_w2"])
def test_every_attention_of_stable_diffusions_shape_is_fused(narrow: Path, name: str) -> None:
    found = runtime.sources(narrow, [name], rtx, "f16")[name]
    nodes = [node.op_type for node in onnx.load(found.file, load_external_data=False).graph.node]
    engine = built(found.file, found.batch)
    assert engine.attentions == engine.fused == nodes.count("Attention") == 28


@pytest.mark.slow
def test_every_other_graph_of_that_shape_builds(narrow: Path) -> None:
    others = set(Manifest.load(narrow, "f16").graphs) - {"body", "body_windows", "body_bank", "face"}
    assert others == {"appearance", "decoder", "encoder", "face_appearance", "face_decoder"}
    for found in runtime.sources(narrow, others, rtx, "f16").values():
        assert built(found.file, found.batch).plan.nbytes > 100_000


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_the_bundled_avatar_builds_with_every_attention_fused(tmp_path: Path, precision: str) -> None:
    folder = tmp_path / "anchor"
    shutil.copytree(bundled_avatar(), folder)
    export_avatar(folder, precision=precision)
    names = [*Manifest.load(folder, precision).graphs, "body_w16"]
    names.remove("body_windows")
    counted = {}
    for name, found in runtime.sources(folder, names, rtx, precision).items():
        engine = build(rtx.kit(precision, "sm89"), found.file, found.batch)
        assert engine.fused == engine.attentions, name
        counted[name] = engine.attentions
    assert {name: n for name, n in counted.items() if n} == {
        "appearance": 2, "body": 8, "body_w16": 8, "body_bank": 8, "face_appearance": 2, "face": 4, "hand": 4,
    }  # fmt: skip
