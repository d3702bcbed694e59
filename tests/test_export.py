"""Graphs of a small random avatar: equal to torch in every runtime, small, and with every weight where it already lay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
from onnx.external_data_helper import ExternalDataInfo

from engine.avatar import Avatar
from engine.errors import InputError
from engine.networks.folder import AvatarNetworks, places, spans
from engine.networks.folder import load as load_networks
from export.avatar import export_avatar
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
