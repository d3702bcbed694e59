"""Names of TensorRT's Python interface: those that we use and those of the fake, against the real bindings of two versions.

Bindings can be imported without the libraries that they link to, once nine functions of those are there, which are never called.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_tensorrt
import pytest
from fake_tensorrt import FakeTensorRT

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
OURS = [*sorted((ROOT / "export" / "trt").glob("*.py")), *sorted((ROOT / "export" / "runtimes").glob("tensorrt*.py"))]
VERSIONS = ("10.16.1.11", "11.4.0.106")
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = [
    *(f"create{kind}_INTERNAL" for kind in ("InferBuilder", "InferRuntime", "InferRefitter", "NvOnnxParser", "NvOnnxParserRefitter")),
    "getPluginRegistry", "getBuilderPluginRegistry", "initLibNvInferPlugins", "getNvOnnxParserVersion",
]  # fmt: skip
TELL = """
import importlib, inspect, json, sys
trt = importlib.import_module(sys.argv[1])
print(json.dumps({name: dir(value) if inspect.isclass(value) else [] for name, value in vars(trt).items()}))
"""
API = dict[str, list[str]]  # members of classes by name; other names have none


def tell(module: str, **environment: str) -> API:
    """What a module of bindings has, asked in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", TELL, module], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    api: API = json.loads(done.stdout)
    return api


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, API]:
    """The interfaces of both versions."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc for libraries that the bindings link to")
    apis = {}
    for version in VERSIONS:
        home = tmp_path_factory.mktemp("bindings")
        wheel = ["--no-deps", "--only-binary=:all:", "--target", str(home), f"tensorrt-cu13-bindings=={version}"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", *wheel], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"the bindings cannot be had: {done.stderr.strip().splitlines()[-1]}")
        code = home / "empty.c"
        code.write_text("".join(f"long {name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
        for library in LIBRARIES:
            out = home / f"lib{library}.so.{version.split('.')[0]}"
            subprocess.run(["gcc", "-shared", "-fPIC", "-o", out, code], check=True)
        apis[version] = tell("tensorrt_bindings", LD_LIBRARY_PATH=str(home), PYTHONPATH=str(home))
    return apis


def chains(file: Path, root: str) -> Iterator[tuple[str, ...]]:
    """("BuilderFlag", "REFIT") for each root.BuilderFlag.REFIT in a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        if names and isinstance(node, ast.Name) and node.id == root:
            yield tuple(names[:2])


def attributes(file: Path) -> set[str]:
    """Everything that stands behind a dot."""
    return {
        node.attr for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)
    }


def lacks(api: API, chain: tuple[str, ...]) -> bool:
    return chain[0] not in api or (len(chain) > 1 and chain[1] not in api[chain[0]])


def missing(apis: dict[str, API], file: Path) -> list[str]:
    """What a file uses that one of the versions has not."""
    of_trt = [
        f"{version}: {'.'.join(c)}" for version, api in apis.items() for c in chains(file, "trt") if lacks(api, c)
    ]
    members = {version: {member for of in api.values() for member in of} for version, api in apis.items()}
    known = set().union(*members.values())
    if file.parent.name == "runtimes":  # where nothing of TensorRT's is called, and options have a .precision, too
        return of_trt
    return of_trt + [f"{v}: .{name}" for v, has in members.items() for name in attributes(file) & known - has]


def test_both_versions_have_what_we_use(real: dict[str, API]) -> None:
    used = {chain for file in OURS for chain in chains(file, "trt")}
    assert len(used) > 20 and ("BuilderFlag", "REFIT") in used
    assert [line for file in OURS for line in missing(real, file)] == []


def test_a_name_that_one_version_lacks_is_found(real: dict[str, API], tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("def wrong(trt, config):\n    config.int8_calibrator = trt.BuilderFlag.FP16, trt.NoSuchThing\n")
    gone = ("11.4.0.106: .FP16", "11.4.0.106: .int8_calibrator", "11.4.0.106: BuilderFlag.FP16")
    assert sorted(missing(real, file)) == ["10.16.1.11: NoSuchThing", *gone, "11.4.0.106: NoSuchThing"]


def public(cls: type) -> set[str]:
    """Names of a class, and of what its methods give to `self`."""
    tree = ast.parse(inspect.getsource(cls))
    given = {
        node.attr for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and getattr(node.value, "id", "") == "self"
    }  # fmt: skip
    return {name for name in {*dir(cls), *given, *getattr(cls, "__annotations__", {})} if not name.startswith("_")}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fake_has_no_name_of_its_own(real: dict[str, API], version: str) -> None:
    api, fake = real[version], FakeTensorRT(version)
    names = {name: value for name, value in vars(fake).items() if not name.startswith("_")}
    assert set(names) <= set(api)
    for name, value in names.items():
        if inspect.isclass(value) and hasattr(value, "__members__"):
            assert set(value.__members__) <= set(api[name]), name
    assert {name for name in vars(names["ILogger"]) if not name.startswith("_")} <= set(api["ILogger"])
    classes: dict[str, Any] = {
        n: c for n, c in vars(fake_tensorrt).items() if inspect.isclass(c) and c.__module__ == "fake_tensorrt"
    }
    played = {name: cls for name, cls in classes.items() if name[0] != "_" and name != "FakeTensorRT"}
    assert {"Builder", "ICudaEngine", "IExecutionContext", "Refitter"} <= set(played) <= set(api)
    for name, cls in played.items():
        assert public(cls) <= set(api[name]), name


def test_tensorrt_rtx_has_what_we_use() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="needs the [rtx] extra")
    api = tell("tensorrt_rtx_bindings")
    for root in ("trt", "rtx"):
        used = {chain for file in OURS for chain in chains(file, root)}
        assert used and [chain for chain in used if lacks(api, chain)] == []
    members = {member for of in api.values() for member in of}
    assert {"set_compute_capability", "num_compute_capabilities", "progress_monitor", "decomposable"} <= members
