"""The benchmark of full size, on networks that are narrow enough for a CPU: what it measures, and what it counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.full_size import ceilings, flops, per_frame, random_avatar, run
from bench.modes import Setting
from engine.networks import folder as stored
from engine.networks.configs import SD15, AvatarConfig, DiffusionConfig

pytestmark = pytest.mark.slow
_UNET = {
    "sample_size": 16, "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 32, 64, 64), "layers_per_block": 1,
    "cross_attention_dim": 32, "attention_head_dim": 2, "norm_num_groups": 8,
}  # fmt: skip
NARROW = AvatarConfig(
    DiffusionConfig(_UNET, None, 16), DiffusionConfig({**_UNET, "in_channels": 9, "sample_size": 8}, None, 8), None, None,
    SD15.image_encoder,
)  # fmt: skip
SETTINGS = (Setting("bank", 2, 1, 2), Setting("exact", 2, 1, 1))


def test_every_setting_is_measured_beside_eager_modules(tmp_path: Path) -> None:
    told = []
    result = run(NARROW, tmp_path, "f32", 2, SETTINGS, rows=64, size=1 << 16, warm_up=1, tell=told.append)
    assert json.loads(json.dumps(result)) == result
    assert {"command", "commit", "machine", "versions", "ceilings", "weights", "seed", "device"} <= set(result)
    assert [(r["setting"]["mode"], r["provider"]) for r in result["rows"]] == [
        (s.mode, provider) for s in SETTINGS for provider in ("auto", "eager")
    ]
    assert len(told) == len(result["rows"])
    for row in result["rows"]:
        assert row["frames"] == 2 and row["fps"] > 0 and row["p95_ms"] >= row["p50_ms"] > 0
        assert row["tflop_s"] == pytest.approx(row["tflop"] * row["fps"])
        assert row["ceiling"] == pytest.approx(row["tflop_s"] / result["ceilings"]["matmul_bf16_tflop_s"])


def test_operations_are_counted(tmp_path: Path) -> None:
    """More frames in a window and more steps cost more, and a frame's own work as much in all modes."""
    avatar = random_avatar(NARROW, tmp_path)
    work = flops(avatar, stored.load(tmp_path))
    alone, window = work["body_windows", 1], work["body_windows", 16]
    assert work["body", 1] == alone and window > 16 * alone  # attention to all of them
    assert alone < work["body_bank", 1] < 2 * alone
    one, two = (per_frame(work, Setting("bank", 2, 1, steps)) for steps in (1, 2))
    assert two - one == work["body_bank", 1]
    exact = per_frame(work, Setting("exact", 16, 4, 1)) - per_frame(work, Setting("causal", 1, 0, 1))
    assert exact == pytest.approx(window / 12 - work["body", 1])


def test_ceilings_are_measured() -> None:
    found = ceilings("cpu", 128, 1 << 20)
    assert set(found) == {"matmul_bf16_tflop_s", "copy_gb_s"} and min(found.values()) > 0
