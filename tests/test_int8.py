"""int8 by calibration: which graphs, how near they stay, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import pose_frame

from engine.avatar import Avatar
from engine.errors import InputError
from engine.live import needed
from engine.network import hosted
from engine.picture import Picture
from export import cpu, int8, runtime
from export.cache import RECORD, EngineCache
from export.engines import Built, build, verified
from export.live import open_live
from export.samples import motion, recorded, spread
from export.verify import TOLERANCE
from export.verify import verify as compare

pytest.importorskip("openvino", reason="needs the extra [cpu]")
pytest.importorskip("nncf", reason="needs the extra [int8]")

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {"hint", "decoder", "encoder", "face_hint", "face_decoder", "hand_hint", "hand_encoder", "hand_decoder"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("int8")
        patch.setenv("LIVEANCHOR_CACHE", str(folder))
        patch.setattr(int8, "STREAMS", 4)
        yield folder


@pytest.fixture(scope="module")
def built(exported: Path, home: Path) -> list[Built]:
    names = Avatar.load(exported).networks
    return list(build(exported, "openvino", "int8", EngineCache.of_user(), names, threads=1))


def painted(folder: Path, precision: str, frames: int = 2) -> list[Picture]:
    engine = open_live(Avatar.load(folder), "openvino", precision, threads=1)
    return [picture for i in range(frames) for picture in engine.feed(pose_frame(i * 40_000_000, i))]


def test_graphs_of_convolutions_get_an_engine_and_no_others(built: list[Built], home: Path) -> None:
    assert {one.graph for one in built if one.key is not None} == PLAIN
    keys = list(EngineCache.of_user().keys())
    assert {key.graph for key in keys} == PLAIN
    assert all(key.precision == "int8" and "calibrated" in key.profile for key in keys)


def test_nobody_is_told_that_it_is_used() -> None:
    """In a process of its own, since NNCF is silent where it sees pytest."""
    code = """
import sys, numpy as np, openvino
from openvino import opset13 as ops
from export.int8 import quantized
x = ops.parameter([1, 3, 8, 8], np.float32)
x.set_friendly_name("x")
weights = np.ones((4, 3, 3, 3), np.float32)
model = openvino.Model([ops.convolution(x, ops.constant(weights), [1, 1], [0, 0], [0, 0], [1, 1])], [x])
quantized(model, [{"x": np.ones((1, 3, 8, 8), np.float32)}])
print(type(sys.modules["nncf.telemetry.wrapper"].telemetry).__name__)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NNCF")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["MagicMock"], done.stderr  # no telemetry, and no bars


def test_what_is_told_live_is_answered_nearly_alike(exported: Path, built: list[Built]) -> None:
    """On frames that it was not calibrated on, one crop or several; the others are what they are without int8."""
    avatar = Avatar.load(exported)
    names = [*needed(avatar), "decoder_w3"]
    real = recorded(avatar, spread(motion(avatar), 2, shift=0.1), needed(avatar), precision="f32", threads=1)
    real["decoder_w3"] = [{name: np.repeat(array, 3, 0) for name, array in call.items()} for call in real["decoder"]]
    ours = runtime.load(exported, names, "openvino", "int8", 1)
    exact = runtime.load(exported, names, "openvino", "f32", 1)
    auto = runtime.load(exported, names, "openvino", "bf16" if cpu.has_bf16() else "f32", 1)
    for name in names:
        for call in real[name]:
            truth, said, same = (hosted(networks[name], **call) for networks in (exact, ours, auto))
            for output in truth:
                want = truth[output].astype(np.float64)
                differs = np.linalg.norm(said[output] - want) / np.linalg.norm(want)
                if name.split("_w")[0] in PLAIN:
                    assert 0 < differs < TOLERANCE["int8"], (name, output)
                else:
                    assert np.array_equal(said[output], same[output])


def test_pictures_are_near_those_of_float32_and_the_same_again(exported: Path, built: list[Built]) -> None:
    exact, first, again = (painted(exported, precision) for precision in ("f32", "int8", "int8"))
    for truth, one, other in zip(exact, first, again, strict=True):
        assert np.array_equal(one.image, other.image)
        difference = one.image.astype(float) - truth.image
        assert 0 < np.sqrt((difference**2).mean()) < 6


def test_calibrated_again_it_is_the_same(exported: Path, built: list[Built]) -> None:
    cache = EngineCache.of_user()
    key = next(one.key for one in built if one.graph == "decoder")
    assert key is not None
    before = {file.name: file.read_bytes() for file in (cache.root / key.id).iterdir() if file.name.endswith(".bin")}
    (again,) = build(exported, "openvino", "int8", cache, ["decoder"], threads=1)
    after = {file.name: file.read_bytes() for file in (cache.root / key.id).iterdir() if file.name.endswith(".bin")}
    assert again.key == key and before == after and before


def test_calibrated_on_something_else_it_is_not_kept(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    avatar, cache = Avatar.load(exported), EngineCache(tmp_path / "engines")
    real = recorded(avatar, spread(motion(avatar), 1), needed(avatar), precision="f32", threads=1)
    black = [{name: np.zeros_like(array) for name, array in real["hint"][0].items()}]
    monkeypatch.setattr(int8, "calls", lambda folder, threads: {"hint": black})
    made = list(build(exported, "openvino", "int8", cache, ["hint"], threads=1))
    rows = list(compare(exported, ["hint"], [("openvino", "int8")], 1, real=real, cache=cache))
    assert rows and not any(row.good for row in rows)
    monkeypatch.setattr("export.engines.verify", lambda *args, **how: rows)
    assert list(verified(exported, [("openvino", "int8")], cache, made, real)) == rows
    assert list(cache.keys()) == []


def test_where_there_is_no_engine_a_line_says_how_to_make_it(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"int8 engine.*liveanchor export --runtime openvino --precision int8"):
        runtime.load(exported, ["decoder"], "openvino", "int8", cache=EngineCache(tmp_path / "engines"))
    runtime.load(exported, ["body"], "openvino", "int8", cache=EngineCache(tmp_path / "engines"))  # needs none


def test_a_changed_engine_is_refused(exported: Path, built: list[Built]) -> None:
    cache = EngineCache.of_user()
    key = next(one.key for one in built if one.graph == "encoder")
    assert key is not None
    file = next(file for file in (cache.root / key.id).iterdir() if file.suffix == ".bin")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="content"):
        runtime.load(exported, ["encoder"], "openvino", "int8")
    file.write_bytes(whole)
    runtime.load(exported, ["encoder"], "openvino", "int8")
    assert (cache.root / key.id / RECORD).is_file()


def test_without_nncf_a_line_says_what_to_install(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    monkeypatch.setattr(int8, "calls", lambda folder, threads: {"decoder": []})
    cache = EngineCache(tmp_path / "engines")
    with pytest.raises(InputError, match=r"pip install 'liveanchor\[int8\]'"):
        list(build(exported, "openvino", "int8", cache, ["decoder"]))
    assert list(cache.keys()) == [] and not any(tmp_path.rglob("*.xml"))
