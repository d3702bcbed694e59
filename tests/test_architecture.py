"""The rooms of the house: imports run bench -> streaming -> export -> engine, and serving needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("engine", "export", "streaming", "bench")  # each may import itself and those before it
TRAINING_ONLY = {
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "scipy",
    "PIL",
    "smplx",
    "trimesh",
    "onnx",
    "onnxscript",
}
MAY_TRAIN = (
    "engine/networks/",
    "engine/training/",
    "engine/importing/",
    "export/graphs",
    "export/avatar",
    "export/tracing",
    "export/verify",
    "export/runtimes/torch",
    "export/trt/memory",
    "bench/",
)


def sources() -> list[Path]:
    return [path for room in ORDER for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path, *, only_at_top: bool = False) -> Iterator[str]:
    """Top-level package names that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if only_at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", ORDER)
def test_imports_run_downwards(room: str) -> None:
    above = set(ORDER[ORDER.index(room) + 1 :]) | {"liveanchor", "tests"}
    wrong = [
        (path.relative_to(ROOT), name)
        for path in sorted((ROOT / room).rglob("*.py"))
        for name in imports(path)
        if name in above
    ]
    assert not wrong


def test_only_training_imports_the_training_libraries() -> None:
    wrong = [
        (str(path.relative_to(ROOT)), name)
        for path in sources()
        if not str(path.relative_to(ROOT)).startswith(MAY_TRAIN)
        for name in imports(path)
        if name in TRAINING_ONLY
    ]
    assert not wrong


def test_serving_loads_no_training_library() -> None:
    """What really is loaded when the server's modules are imported, in a process of its own."""
    code = (
        "import sys, liveanchor, streaming.server, streaming.opening, streaming.render, streaming.sender, streaming.doctor\n"
        f"print(sorted(set(m.split('.')[0] for m in sys.modules) & {TRAINING_ONLY - {'scipy'}!r}))"  # numba looks for scipy
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_fit_in_a_head() -> None:
    long = {
        str(p.relative_to(ROOT)): n for p in sources() if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert not long
