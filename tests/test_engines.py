"""`liveanchor export`: engines are made, compared, and kept only where they are right and whole."""

from __future__ import annotations

import errno
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import liveanchor
from engine.errors import InputError
from export.cache import RECORD, EngineCache, Key
from export.engines import Built, build, graphs_for, verified
from export.runtimes import onnxruntime
from export.seam import Fixed, Options, Source

NAMES = ("hint", "decoder", "encoder")


class Deviant:
    """ONNX Runtime's network with something added to what it says."""

    def __init__(self, network: Any, by: float) -> None:
        self.home, self.fixed = network.home, network.fixed
        self.inputs, self.outputs = network.inputs, network.outputs
        self._network, self._by = network, by

    def __call__(self, **inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        said = self._network(**inputs)
        return {name: array + np.asarray(self._by, array.dtype) for name, array in said.items()}


def builder(wrong: str = "", during: Callable[[str, Path], None] = lambda graph, folder: None) -> types.ModuleType:
    """A runtime that keeps an engine of every graph: a copy of it. The one of `wrong` is not what the graph says."""
    module = types.ModuleType("export.runtimes.onnxruntime")

    def key(source: Source) -> Key:
        return Key(source.graph, source.digest, "onnxruntime", "1", "f32", "cpu", str(source.batch))

    def make(source: Source, options: Options, tell: Callable[[float], None]) -> Key:
        def write(folder: Path) -> None:
            tell(0.5)
            (folder / "engine").write_bytes(source.file.read_bytes())
            during(source.graph, folder)

        options.cache.build(key(source), write)
        return key(source)

    def load(source: Source, options: Options, fixed: Fixed) -> Any:
        if source.batch == 1 and options.cache.find(key(source)) is None:
            raise InputError(source.graph, "engine", "one in the cache", "none")
        network = onnxruntime.load(source, options, fixed)
        return Deviant(network, 0.5) if source.graph == wrong else network

    vars(module).update(PRECISIONS=("f32",), GRAPHS={}, build=make, load=load)
    return module


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    monkeypatch.setenv("LIVEANCHOR_CACHE", str(tmp_path / "home"))
    return EngineCache.of_user()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[types.ModuleType], None]]:
    yield lambda module: monkeypatch.setitem(sys.modules, "export.runtimes.onnxruntime", module)


def whole(cache: EngineCache) -> set[str]:
    """The graphs of the engines that are there; every one can be read, and nothing else lies about."""
    keys = list(cache.keys())
    assert len(list(cache.root.iterdir())) == len(keys)
    for key in keys:
        folder = cache.find(key)
        assert folder is not None and (folder / RECORD).is_file()
    return {key.graph for key in keys}


def test_engines_are_built_with_their_size_and_time(exported: Path, cache: EngineCache, use: Any) -> None:
    use(builder())
    told: list[tuple[str, float]] = []
    made = list(
        build(exported, "onnxruntime", "f32", cache, NAMES, tell=lambda graph, done: told.append((graph, done)))
    )
    assert [one.graph for one in made] == list(NAMES)
    for one in made:
        assert one.bytes == (exported / f"{one.graph}.onnx").stat().st_size and one.seconds > 0
        assert f"{one.bytes / 1e6:.1f} MB" in str(one)
    assert told == [(name, done) for name in NAMES for done in (0.0, 0.5)]
    assert whole(cache) == set(NAMES)


def test_a_runtime_that_keeps_none_is_tried(exported: Path, cache: EngineCache) -> None:
    (made,) = build(exported, "onnxruntime", "f32", cache, ["hint"])
    assert made.key is None and "no file" in str(made)
    assert not cache.root.exists()


def test_an_engine_that_differs_is_not_kept(exported: Path, cache: EngineCache, use: Any) -> None:
    use(builder(wrong="encoder"))
    made = list(build(exported, "onnxruntime", "f32", cache, graphs_for(exported, "onnxruntime", "f32")[1]))
    assert "encoder" in whole(cache)
    rows = list(verified(exported, [("onnxruntime", "f32")], cache, made, {}))
    assert {row.graph for row in rows if not row.good} == {"encoder"}
    assert whole(cache) == {one.graph for one in made} - {"encoder"}


def test_the_command_fails_where_an_engine_differs(
    exported: Path, cache: EngineCache, use: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(builder(wrong="hint"))
    options = ["export", "--avatar", str(exported), "--runtime", "onnxruntime", "--precision", "f32", "--verify"]
    monkeypatch.setattr(sys, "argv", ["liveanchor", *options])
    monkeypatch.setattr("export.verify.real_inputs", lambda avatar, threads: {})
    with pytest.raises(SystemExit) as ending:
        liveanchor.main()
    said = capsys.readouterr()
    assert ending.value.code == 1
    assert "liveanchor: " in said.err and "outputs that differ by more" in said.err and "Traceback" not in said.err
    assert "MORE THAN 0.0001" in said.out and "graphs ready" in said.out
    assert "hint" not in whole(cache) and "decoder" in whole(cache)


@pytest.mark.parametrize("what", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_what_ends_in_the_middle_leaves_the_cache_whole(
    exported: Path, cache: EngineCache, use: Any, what: BaseException
) -> None:
    def stop(graph: str, folder: Path) -> None:
        if graph == "decoder":
            (folder / "more").write_bytes(b"half")
            raise what

    use(builder())
    list(build(exported, "onnxruntime", "f32", cache, ["decoder"]))  # an older one
    use(builder(during=stop))
    made = []
    expected = KeyboardInterrupt if isinstance(what, KeyboardInterrupt) else InputError
    with pytest.raises(expected) as caught:
        made += list(build(exported, "onnxruntime", "f32", cache, NAMES))
    assert isinstance(what, KeyboardInterrupt) or "No space left on device" in str(caught.value)
    assert whole(cache) == {"hint", "decoder"}  # the older one has stayed


def test_graphs_are_exported_first_where_they_are_not_as_exported(exported: Path, tmp_path: Path) -> None:
    import shutil

    assert graphs_for(exported, "onnxruntime", "f16") == ("f16", ())
    stored, names = graphs_for(exported, "onnxruntime", "auto")
    assert stored == "f32" and "body_bank" in names
    shutil.copytree(exported, tmp_path / "avatar")
    weights = tmp_path / "avatar" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert graphs_for(tmp_path / "avatar", "onnxruntime", "auto") == ("f32", ())


def test_a_runtime_that_cannot_run_here_cannot_be_compared(
    exported: Path, cache: EngineCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("export.ladder.gpus", lambda: ())
    monkeypatch.setattr("export.ladder._version", lambda known: "1")
    monkeypatch.setattr(
        sys, "argv", ["liveanchor", "export", "--avatar", str(exported), "--runtime", "tensorrt", "--verify"]
    )
    with pytest.raises(SystemExit) as ending:
        liveanchor.main()
    assert ending.value.code == 1
    assert "a machine that runs tensorrt, got needs an NVIDIA GPU" in capsys.readouterr().err
    assert not cache.root.exists()


def test_real_inputs_are_compared_too(exported: Path, cache: EngineCache) -> None:
    from engine.avatar import Avatar
    from export.verify import real_inputs, verify

    avatar = Avatar.load(exported)
    real = real_inputs(avatar, threads=1)
    assert set(real) == set(avatar.networks)
    names = ["appearance", "body", "body_windows", "body_bank", "hand", "decoder"]
    rows = list(verify(exported, names, [("onnxruntime", "f32")], 1, real=real))
    assert {(row.graph, row.inputs) for row in rows} == {(name, kind) for name in names for kind in ("random", "real")}
    assert all(row.good for row in rows)
    assert {row.batch for row in rows if row.graph == "body_windows" and row.inputs == "real"} == {2, 3}


def test_the_size_and_time_of_an_engine_can_be_read() -> None:
    one = Built("body", "tensorrt", "f16", 12.34, Key("body", "d", "tensorrt", "11", "f16", "sm89", ""), 3_450_000)
    assert "body" in str(one) and "3.5 MB" in str(one) and "12.3 s" in str(one)
    assert "no file" in str(replace(one, key=None))
