"""Inputs of real calls, how often a frame makes them, and the table of what they cost."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.throughput import calls_per_frame, markdown, run, ways
from engine.avatar import Avatar
from engine.errors import InputError
from engine.live import needed
from export import runtime
from export.samples import motion, recorded, spread
from liveanchor import app


@pytest.fixture(scope="module")
def avatar(exported: Path) -> Avatar:
    return Avatar.load(exported)


def test_samples_are_all_inputs_of_every_call(avatar: Avatar) -> None:
    """Of as many calls as were made, with those that a loaded graph would have as constants; again, the same."""
    streams = spread(motion(avatar), 3, frames=2)
    assert [len(stream) for stream in streams] == [2, 2, 2]
    assert len({frame.time_ns for stream in streams for frame in stream}) == 6
    names = [*needed(avatar), "body_w3"]
    samples, again = (recorded(avatar, streams, names, seed=5, precision="f32", threads=1) for _ in range(2))
    assert list(samples) == names
    plain = runtime.load(avatar.folder, names, precision="f32", threads=1)
    for name in names:
        assert len(samples[name]) == len(again[name]) >= (1 if "appearance" in name else 6)
        for one, other in zip(samples[name], again[name], strict=True):
            assert {n: a.shape for n, a in one.items()} == dict(plain[name].inputs)
            assert all(np.array_equal(one[n], other[n]) for n in one)
        plain[name](**samples[name][0])  # types too
    hints = [inputs["condition"] for inputs in samples["hint"]]
    assert not np.array_equal(hints[0], hints[1])  # each call's own, not the memory that the next one overwrote


def test_without_a_clip_random_movements_are_painted(avatar: Avatar) -> None:
    assert not (avatar.folder / "clip.npz").exists()
    first, again, other = motion(avatar), motion(avatar), motion(avatar, seed=1)
    assert len(first) == avatar.fps and first.poses.std() > 0.01
    assert np.array_equal(first.poses, again.poses) and not np.array_equal(first.poses, other.poses)


@pytest.mark.parametrize(("mode", "steps"), [("bank", 1), ("bank", 3), ("causal", 2)])
def test_calls_a_frame_are_those_that_the_engine_makes(avatar: Avatar, mode: str, steps: int) -> None:
    own = avatar.with_mode(mode).with_steps(steps)  # type: ignore[arg-type]
    own = replace(own, denoise=replace(own.denoise, context=1))
    counts = calls_per_frame(own)
    assert set(counts) == {name for name in needed(own) if "appearance" not in name}
    streams = spread(motion(own), 1, frames=4)
    samples = recorded(own, streams, counts, precision="f32", threads=1)
    assert {name: len(kept) / 4 for name, kept in samples.items()} == counts


def test_calls_of_windows_are_shared_by_their_frames(avatar: Avatar) -> None:
    own = avatar.with_steps(2).with_window(4, 1)
    assert calls_per_frame(own.with_mode("exact"))["body_w4"] == pytest.approx(2 / 3)


def test_a_table_of_everything_that_runs_here(exported: Path, avatar: Avatar) -> None:
    """With a clock that ticks once a reading every call takes as long, so totals are known."""
    ticks = count()
    result = run(exported, threads=1, seed=3, calls=4, clock=lambda: next(ticks))
    columns = [(total["runtime"], total["precision"]) for total in result["totals"]]
    left_out = [tuple(problem.split(": ")[0].split()) for problem in result["left_out"]]
    assert sorted([*columns, *left_out]) == sorted(ways()) and ("openvino", "f32") in columns
    assert {"command", "commit", "versions", "machine", "seed", "threads", "motion", "calls"} <= set(result)
    assert (result["seed"], result["threads"], result["motion"]) == (3, 1, "random")
    assert json.loads(json.dumps(result)) == result
    counts = calls_per_frame(avatar)
    for runtime_, precision in columns:
        rows = [r for r in result["networks"] if (r["runtime"], r["precision"]) == (runtime_, precision)]
        assert {r["name"]: r["calls_per_frame"] for r in rows} == counts
        assert all(set(r) == {"name", "runtime", "precision", "ms", "p95", "calls_per_frame"} for r in rows)
        (total,) = (t for t in result["totals"] if (t["runtime"], t["precision"]) == (runtime_, precision))
        assert total["ms"] == pytest.approx(sum(r["ms"] * r["calls_per_frame"] for r in rows))
        assert total["ms"] == pytest.approx(1000 * sum(counts.values())) and total["load_s"] == 1
    table = markdown(result).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in table[2 : 2 + len(counts)]] == list(counts)
    assert f"**{1000 * sum(counts.values()):.1f}**" in next(line for line in table if "a frame**" in line)


def test_one_column_and_what_cannot_be_measured(exported: Path, tmp_path: Path) -> None:
    file = tmp_path / "throughput.json"
    words = ["bench", "throughput", "--avatar", str(exported), "--runtime", "onnxruntime", "--threads", "1", "--json"]
    done = CliRunner().invoke(app, [*words, str(file)])
    assert done.exit_code == 0 and "| onnxruntime f32 |" in done.output
    assert {row["runtime"] for row in json.loads(file.read_text())["networks"]} == {"onnxruntime"}
    with pytest.raises(InputError, match="precision: expected auto"):
        run(exported, "onnxruntime", "bf16")
    with pytest.raises(InputError, match="got abacus"):
        run(exported, "abacus")
