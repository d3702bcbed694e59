"""The table of modes: what is counted, against what the modes must cost; and that the documentation holds what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_avatar import write_clip

from bench.modes import Figures, Setting, markdown, measure, seams
from bench.quality.parts import held_out
from engine.avatar import Avatar
from engine.clips import write_clip as write_motion
from engine.pose import PoseClip

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = 14
    folder = write_clip(tmp_path / "square", frames)
    rng = np.random.default_rng(0)
    poses, expressions = rng.normal(0, 0.02, (frames, 165)), np.zeros((frames, 100))
    write_motion(
        folder / "clip.npz",
        PoseClip(25.0, poses.astype(np.float32), expressions.astype(np.float32), np.zeros((frames, 3), np.float32)),
    )
    text = (folder / "clip.toml").read_text().replace(f"end = [[{frames - 2}, {frames}]]", "end = [[3, 14]]")
    (folder / "clip.toml").write_text(text.replace(f"train = [[0, {frames - 2}]]", "train = [[0, 3]]"))
    return folder


def test_modes_cost_and_wait_for_what_they_must(exported: Path, clip: Path) -> None:
    """Eleven frames: windows of 4 that share 1 begin at 0, 3, 6 and 9, so 4 + 4 + 4 + 2 evaluations a step."""
    settings = [
        Setting("offline", 4, 1, 2), Setting("exact", 4, 1, 2), Setting("causal", 1, 0, 1), Setting("causal", 3, 1, 1),
        Setting("bank", 3, 2, 2),
    ]  # fmt: skip
    painted: list[int] = []
    rows = list(measure(Avatar.load(exported), held_out([clip]), settings, precision="f32", tell=painted.append))
    offline, exact, alone, hop, bank = rows
    assert sum(painted) == 11 * len(settings)
    assert [row.delay_frames for row in rows] == [None, 6, 0, 1, 0]
    assert [round(row.evaluations * 11) for row in rows] == [28, 28, 11, 18, 22]
    assert exact.delay_ms == 240
    assert exact.attention_mflop == offline.attention_mflop == pytest.approx(alone.attention_mflop * 2 * 52 / 11)
    assert bank.attention_mflop > 2 * alone.attention_mflop
    for a, b in ((exact.psnr, offline.psnr), (exact.flicker, offline.flicker), (exact.seam, offline.seam)):
        assert a == b  # the same pictures
    assert alone.seam is None and bank.seam is None and hop.seam is not None


def test_borders_are_where_windows_begin_and_end() -> None:
    assert seams(Setting("exact", 16, 4, 1), 30) == {12, 16, 24, 28}
    assert seams(Setting("offline", 4, 0, 1), 9) == {4, 8}
    assert seams(Setting("causal", 4, 2, 1), 7) == {2, 4, 6}
    assert seams(Setting("causal", 2, 1, 1), 7) == seams(Setting("bank", 2, 1, 1), 7) == set()


def test_a_seam_is_a_change_that_the_truth_does_not_have() -> None:
    figures = Figures(Setting("exact", 4, 0, 1))
    figures.border, figures.changes = [False, True, False], [(1.0, 2.0), (4.0, 4.0), (1.0, 2.0)]
    assert figures.seam() == 2.0  # four times as much, where twice as much was true


def test_the_documentation_holds_the_table_that_was_measured() -> None:
    rows = json.loads((ROOT / "bench" / "results" / "modes.json").read_text())["rows"]
    assert markdown(rows) in (ROOT / "docs" / "modes.md").read_text()
