"""A show with a small avatar is recorded, and the command paints it again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from test_recorder import assert_the_same, submit_until

import liveanchor
from engine.errors import InputError
from engine.pose_log import EVENTS_FILE, Kind, PoseLog
from export.ladder import describe
from streaming.opening import described, open_engine, open_replay, open_show
from streaming.pipeline import Pipeline
from streaming.recorder import Recorder
from streaming.render import in_time
from streaming.server import build_app
from streaming.settings import load_settings


async def recorded(exported: Path, folder: Path, pictures: int = 12) -> dict[str, object]:
    """Serve until so many pictures are painted; what `/stats` said last."""
    settings = load_settings(avatar=exported, record=folder, runtime="onnxruntime", threads=1, seed=5)
    show = open_show(settings, version="1.2.3")
    async with TestClient(TestServer(build_app(show, settings))) as client:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            stats = await (await client.get("/stats")).json()
            assert not stats["trouble"]
            if stats["recording"]["written"] > 3 * pictures:
                break
        metrics = await (await client.get("/metrics")).text()
    assert 'liveanchor_pose_log_events_total{outcome="written"}' in metrics
    assert 'liveanchor_pose_log_events_total{outcome="lost"} 0.0' in metrics
    return stats


async def test_a_show_is_recorded_and_rendered_again(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "log"
    stats = await recorded(exported, folder)
    assert stats["recording"]["lost"] == 0 and not stats["recording"]["trouble"]  # type: ignore[index]
    with pytest.raises(InputError, match="a pose log"):
        open_show(load_settings(avatar=exported, record=folder))
    fields = PoseLog.open(folder).fields
    assert (fields.seed, fields.runtime, fields.precision, fields.threads) == (5, "onnxruntime", "f32", 1)
    assert (fields.folder, fields.program) == (str(exported.resolve()), "1.2.3")

    engine, log, differs = open_replay(folder)
    pictures = list(engine.replay(log))
    assert len(pictures) >= 10 and not differs
    engine, log, differs = open_replay(folder, seed=6)
    assert differs == ["seed 5 recorded, 6 here"]
    with pytest.raises(InputError, match="seed: expected 6"):
        engine.replay(log)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["liveanchor", "render", *arguments])
        with pytest.raises(SystemExit) as ending:
            liveanchor.main()
        return int(ending.value.code or 0), capsys.readouterr().err

    out = tmp_path / "again.mp4"
    status, said = run(str(folder), "-o", str(out))
    assert status == 0 and "differ" not in said
    with av.open(str(out)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    ticks = [tick / 25 for tick, _ in in_time(pictures, 25.0)]
    np.testing.assert_allclose(times, ticks, atol=1e-3)
    status, said = run(str(folder), "-o", str(out), "--seed", "6", "--seconds", "0.2")
    assert status == 0 and "The pictures will differ from those that left live: seed 5 recorded, 6 here" in said
    with av.open(str(out)) as container:
        assert 0 < sum(1 for _ in container.decode(video=0)) <= 6

    replace(fields, fingerprint="0").write(folder)
    status, said = run(str(folder), "-o", str(out))
    assert status == 1 and "fingerprint: expected" in said
    (folder / EVENTS_FILE).write_bytes(b"LVALOG\x01\x00")
    fields.write(folder)
    status, said = run(str(folder), "-o", str(out))
    assert status == 1 and "pictures: expected at least one that left, got none" in said


async def test_a_recorded_show_goes_on_when_another_avatar_takes_over(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "log"
    settings = load_settings(avatar=exported, record=folder, runtime="onnxruntime", threads=1, govern=True)
    show = open_show(settings)
    async with TestClient(TestServer(build_app(show, settings))) as client:

        async def until(enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            deadline = time.monotonic() + 60
            while not enough(stats := await (await client.get("/stats")).json()):
                assert time.monotonic() < deadline and not stats["trouble"], stats
                await asyncio.sleep(0.01)
            return stats

        await until(lambda stats: bool(stats["recording"]["written"] > 30))
        assert "liveanchor_pose_log_open 1.0" in await (await client.get("/metrics")).text()
        await show.swap(exported)
        stats = await until(lambda stats: bool(stats["recording"]["swapped"]))
        assert stats["swaps"] == {"done": 1} and not stats["recording"]["lost"]
        newest = show._newest
        assert newest is not None
        await until(lambda stats: show._newest is not newest)  # it is still painted
        assert "liveanchor_pose_log_open 0.0" in await (await client.get("/metrics")).text()
    engine, log, differs = open_replay(folder)
    assert len(log.fields.gears) == len(engine.gears) > 3 and not differs
    exits = [e for e in log.events() if e.kind is Kind.TAKEN and e.group == 2]
    assert [(p.epoch, p.index) for p in engine.replay(log)] == [(e.epoch, e.index) for e in exits] and exits


def test_options_that_ask_for_another_delay_are_refused(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    settings = load_settings(avatar=exported, runtime="onnxruntime", threads=1, mode="exact", window=3, overlap=1)
    fields = described(open_engine(settings), settings)
    assert (fields.mode, fields.window, fields.overlap) == ("exact", 3, 1)
    fields.write(tmp_path)
    (tmp_path / EVENTS_FILE).write_bytes(b"LVALOG\x01\x00")
    _, _, differs = open_replay(tmp_path)
    assert not differs
    engine, log, differs = open_replay(tmp_path, overlap=0, mode="exact")
    assert differs == ["overlap 1 recorded, 0 here", "hop 2 recorded, 3 here"]
    engine, log, differs = open_replay(tmp_path, window=4)
    assert "window 3 recorded, 4 here" in differs
    with pytest.raises(InputError, match="delay: expected"):
        engine.replay(log, force=True)
    with pytest.raises(InputError, match="mode: expected exact, causal or bank: live, got offline"):
        open_replay(tmp_path, mode="offline")
    replace(fields, window=4).write(tmp_path)
    (tmp_path / "log.toml").write_text((tmp_path / "log.toml").read_text().replace("hop = 2", "hop = 5"))
    with pytest.raises(InputError, match="hop: expected 3, as here, got 5"):
        open_replay(tmp_path)


@pytest.mark.parametrize("how", [{}, {"mode": "exact", "window": 3, "overlap": 1}, {"mode": "causal", "window": 3}])
@pytest.mark.parametrize("runtime", [info.name for info in describe() if info.usable])
def test_real_runtimes_paint_the_same_bytes_again(
    runtime: str, how: dict[str, object], exported: Path, tmp_path: Path
) -> None:
    settings = load_settings(avatar=exported, runtime=runtime, seed=2, **how)
    engine, left = open_engine(settings), []
    engine.warm_up()
    recorder = Recorder(tmp_path)
    recorder.start(described(engine, settings))
    pipeline = Pipeline(engine, left.append, observer=recorder)
    pipeline.start()
    enough = lambda: len(left) > 8 and len({p.epoch for p in left}) > 1 and sum(pipeline.drops().values()) > 5  # noqa: E731
    assert submit_until(enough, pipeline, lambda i: i % 50 == 20, lambda: 0.002)
    assert pipeline.stop(20) and recorder.stop()
    again, log, differs = open_replay(tmp_path)
    assert not differs
    assert_the_same(left, list(again.replay(log)))


def test_the_setting_comes_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "live.toml").write_text('record = "here"\n')
    assert load_settings(tmp_path / "live.toml").record == Path("here")
    monkeypatch.setenv("LIVEANCHOR_RECORD", "there")
    assert load_settings(tmp_path / "live.toml").record == Path("there")
    assert load_settings(record=Path("elsewhere")).record == Path("elsewhere")
