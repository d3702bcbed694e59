"""Every runtime of this machine against torch: the bundled anchor, and networks of Stable Diffusion 1.5's shape and head dimensions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from narrow_sd15 import write_narrow

from engine.avatar import Avatar, bundled_avatar
from export.avatar import export_avatar
from export.verify import TOLERANCE, Comparison, real_inputs, usable, verify

pytestmark = pytest.mark.slow
WAYS = [*usable(), ("onnxruntime", "f16")]  # torch itself in half precision: test_torch_runtime


def shown(rows: Iterator[Comparison]) -> list[Comparison]:
    """All rows; the worst of each runtime and precision goes into the log."""
    found = list(rows)
    worst: dict[tuple[str, str], Comparison] = {}
    for row in found:
        worst[row.runtime, row.precision] = max(
            row, worst.get((row.runtime, row.precision), row), key=lambda r: r.relative
        )
    for row in worst.values():
        print(row)  # noqa: T201
    return found


def test_the_tolerances_are_those_that_are_promised() -> None:
    assert TOLERANCE["f32"] == 1e-4 and TOLERANCE["bf16"] == TOLERANCE["f16"] == 2e-2


def test_the_bundled_anchor(tmp_path: Path) -> None:
    """On random inputs and on what its networks are told while its clip is painted."""
    folder = tmp_path / "anchor"
    shutil.copytree(bundled_avatar(), folder)
    export_avatar(folder, precision="f16")
    avatar = Avatar.load(folder)
    rows = shown(verify(folder, ways=WAYS, threads=2, real=real_inputs(avatar, 2)))
    assert {(row.runtime, row.precision) for row in rows} == set(WAYS)
    assert {(row.graph, row.inputs) for row in rows} == {
        (n, kind) for n in avatar.networks for kind in ("random", "real")
    }
    assert not [str(row) for row in rows if not row.good]


def test_stable_diffusions_shape(tmp_path: Path) -> None:
    folder = write_narrow(tmp_path)
    export_avatar(folder)
    export_avatar(folder, precision="f16")
    rows = shown(verify(folder, ways=WAYS, threads=2))
    assert {(row.runtime, row.precision) for row in rows} == set(WAYS)
    assert {"body", "body_windows", "body_bank", "face", "decoder", "encoder"} <= {row.graph for row in rows}
    assert not [str(row) for row in rows if not row.good]
