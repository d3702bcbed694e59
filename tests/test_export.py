"""Graphs of a small random avatar: equal to torch in every runtime, small, and with every weight where it already lay."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import onnx
import pytest
from onnx.external_data_helper import ExternalDataInfo
from small_avatar import write_avatar

from engine.avatar import Avatar
from engine.errors import InputError
from engine.networks.folder import AvatarNetworks, places, spans
from engine.networks.folder import load as load_networks
from export import runtime
from export.avatar import export_avatar, golden
from export.golden import confirm
from export.graphs import graphs
from export.manifest import Manifest
from export.tracing import INLINE, trace, write
from export.verify import Comparison, usable, verify

NAMES = {
    "appearance", "hint", "body", "body_windows", "body_bank", "decoder",
    "face_appearance", "encoder", "face_hint", "face", "face_decoder",
    "hand_encoder", "hand_hint", "hand", "hand_decoder",
}  # fmt: skip


@pytest.fixture(scope="module")
def comparisons(exported: Path) -> list[Comparison]:
    return list(verify(exported, threads=2))


def test_every_graph_is_there_and_named_in_the_avatar(exported: Path) -> None:
    avatar = Avatar.load(exported)
    assert set(avatar.networks) == NAMES
    assert set(Manifest.load(exported).graphs) == NAMES
    assert not list(exported.glob("**/.*"))  # nothing half-written


def test_runtimes_say_what_torch_says(comparisons: list[Comparison]) -> None:
    assert {(c.graph, c.runtime, c.precision) for c in comparisons} == {(n, *way) for n in NAMES for way in usable()}
    assert not [str(c) for c in comparisons if not c.good]


def test_every_open_graph_is_compared_at_two_sizes(comparisons: list[Comparison]) -> None:
    sizes: dict[str, set[int]] = {}
    for c in comparisons:
        sizes.setdefault(c.graph, set()).add(c.batch)
    static = {"appearance", "face_appearance", "body", "body_bank"}  # run once a show, or for one frame alone
    assert sizes == {
        name: {1} if name in static else {2, 3} if name.startswith("hand") or name == "body_windows" else {1, 3}
        for name in NAMES
    }


def test_numbers_agree_closely_in_float32(comparisons: list[Comparison]) -> None:
    for c in comparisons:
        if c.precision == "f32":
            limit = 1 if c.output == "image" else 1e-4  # a level of a byte
            assert c.largest <= limit, str(c)


def test_a_difference_is_seen(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(folder: Path) -> AvatarNetworks:
        networks = load_networks(folder)
        assert networks.body.hint is not None
        networks.body.hint.conv_in.weight.data *= 1.01
        return networks

    monkeypatch.setattr("export.verify.stored.load", other)
    assert not any(c.good for c in verify(exported, ["hint"], [("onnxruntime", "f32")]))


def test_weights_exist_once(exported: Path) -> None:
    for name in NAMES:
        file = exported / f"{name}.onnx"
        assert file.stat().st_size < 300_000
        model = onnx.load(file, load_external_data=False)
        external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        assert external
        for tensor in model.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert tensor.ByteSize() <= INLINE
        for tensor in external:
            said = ExternalDataInfo(tensor)
            found = {(offset, length) for _, _, offset, length in spans(exported / said.location).values()}
            assert (said.offset, said.length) in found


def test_every_weight_of_a_network_is_used_by_its_graph(exported: Path) -> None:
    model = onnx.load(exported / "face.onnx", load_external_data=False)
    used = {
        (ExternalDataInfo(t).location, ExternalDataInfo(t).offset) for t in model.graph.initializer if t.external_data
    }
    for part in ("unet", "controlnet"):
        file = f"head/{part}/diffusion_pytorch_model.safetensors"
        unused = [k for k, (_, _, offset, _) in spans(exported / file).items() if (file, offset) not in used]
        # The ControlNet's embedding of pictures is there in diffusers' layout; all of it takes part.
        assert not unused


def test_names_are_the_seam(exported: Path) -> None:
    avatar = Avatar.load(exported)
    seam = {g.name: (set(g.inputs), g.outputs) for g in graphs(avatar, load_networks(exported))}
    assert seam["hint"] == ({"condition"}, ("hint16", "hint8", "hint4"))
    assert seam["body"][0] == {"sample", "timestep", "hint16", "appearance"} == seam["face"][0] == seam["hand"][0]
    bank, new = seam["body_bank"]
    assert bank == seam["body"][0] | {"filled", "past_16x48", "past_64x32"}  # tokens x channels: middle block, up block
    assert new == ("prediction", "new_16x48", "new_64x32")
    assert seam["decoder"][0] == {"latents", "hint8", "hint4"}


def test_the_graph_tells_nothing_of_this_machine(exported: Path) -> None:
    for name in NAMES:
        raw = (exported / f"{name}.onnx").read_bytes()
        assert b"site-packages" not in raw
        assert b".py" not in raw


def test_a_weight_of_another_shape_is_refused(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "avatar")
    folder = tmp_path / "avatar"
    networks = load_networks(folder)
    graph = next(g for g in graphs(Avatar.load(folder), networks) if g.name == "hint")
    file = folder / "body/hint/diffusion_pytorch_model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["conv_in.bias"]["shape"] = [4, 4]
    text = json.dumps(header).encode().ljust(length)
    file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with pytest.raises(InputError, match=r"conv_in.bias: expected shape \(16,\), got shape \(4, 4\)"):
        trace(graph, places(networks), folder)


def test_the_same_networks_give_the_same_files(exported: Path, tmp_path: Path) -> None:
    """Engines are named after them, and refitted where only weights differ."""
    networks = load_networks(exported)
    for graph in graphs(Avatar.load(exported), networks):
        if graph.name in ("body_bank", "face_decoder"):
            shutil.copytree(exported, tmp_path / graph.name)
            again = write(trace(graph, places(networks), exported), tmp_path / graph.name)
            assert again.read_bytes() == (exported / f"{graph.name}.onnx").read_bytes()


def test_graphs_in_half_precision_lie_beside_the_others(exported: Path, halved: Path) -> None:
    assert (halved / "graphs.json").read_bytes() == (exported / "graphs.json").read_bytes()
    assert (halved / "avatar.toml").read_bytes() == (exported / "avatar.toml").read_bytes()
    for name in NAMES:
        model = onnx.load(halved / f"{name}.f16.onnx", load_external_data=False)
        ends = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
        assert onnx.TensorProto.FLOAT16 not in ends  # the seam stays as it is
        kinds = Counter(t.data_type for t in model.graph.initializer if t.external_data)
        assert set(kinds) <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}  # statistics of latents are in single
        casts = [n for n in model.graph.node if n.op_type == "Cast" and n.input[0].endswith(".stored")]
        assert len(casts) == kinds[onnx.TensorProto.FLOAT]  # what lies there in half is read as it is


def test_graphs_in_half_precision_say_what_torch_says(halved: Path) -> None:
    said = list(verify(halved, ways=[("onnxruntime", "f16")], threads=2))
    assert {c.graph for c in said} == NAMES
    assert not [str(c) for c in said if not c.good]
    assert max(c.relative for c in said) > 1e-5  # it is another precision indeed


def test_graphs_in_bf16_are_whole(exported: Path, tmp_path: Path) -> None:
    networks = load_networks(exported)
    shutil.copytree(exported, tmp_path / "avatar")
    for graph in graphs(Avatar.load(exported), networks):
        if graph.name in ("hint", "body_bank", "decoder"):
            file = write(trace(graph, places(networks), tmp_path / "avatar", "bf16"), tmp_path / "avatar", "bf16")
            model = onnx.load(file, load_external_data=False)  # write has let the checker infer every type
            assert model.graph.output[0].type.tensor_type.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8)
            assert any(
                a.i == onnx.TensorProto.BFLOAT16 for n in model.graph.node for a in n.attribute if n.op_type == "Cast"
            )


def test_goldens_know_the_weights(exported: Path, tmp_path: Path) -> None:
    """Every graph gives them in a runtime that has never seen torch; other weights do not."""
    other = tmp_path / "other"
    write_avatar(other, seed=1)
    ours, theirs = Manifest.load(exported), load_networks(other / "avatar")
    foreign = {graph.name: golden(graph) for graph in graphs(Avatar.load(exported), theirs)}
    for name, entry in ours.graphs.items():
        assert entry.golden is not None
        sizes = {"body_windows": ("body_w2", "body_w5"), "decoder": ("decoder", "decoder_w4")}.get(name, (name,))
        for network in runtime.load(exported, sizes, "onnxruntime", threads=1).values():
            assert entry.golden.error(network) < 5e-3
            confirm(entry.golden, network, "f32", name)
            with pytest.raises(InputError, match=r"the numbers of the exported graph.*where f32 may be 0\.005"):
                confirm(foreign[name], network, "f32", name)
            assert foreign[name].error(network) > 0.2


def test_an_interrupted_export_leaves_no_list(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "avatar"
    shutil.copytree(exported, folder)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_avatar(folder, stop)
    with pytest.raises(InputError, match="run the export again"):
        Manifest.load(folder)


def test_a_graph_that_is_wrong_is_not_kept(exported: Path, tmp_path: Path) -> None:
    networks = load_networks(exported)
    graph = next(g for g in graphs(Avatar.load(exported), networks) if g.name == "hint")
    traced = trace(graph, places(networks), exported)
    traced.model.graph.node[-1].op_type = "NoSuchOperator"
    shutil.copytree(exported / "body", tmp_path / "body")
    with pytest.raises(onnx.checker.ValidationError):
        write(traced, tmp_path)
    assert not list(tmp_path.glob("*.onnx"))
    assert not list(tmp_path.glob(".*"))
