"""The HTTP face: the page and its files, statistics, metrics, health, origins, settings, and stopping in time."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import aiohttp
import pytest
from fake_show import FakeShow
from prometheus_client.parser import text_string_to_metric_families
from test_whep import SDP, make_viewer, served, watch

from engine.errors import InputError
from streaming import provenance
from streaming.metrics import Meter
from streaming.pacer import Shown
from streaming.server import WEB, build_app, page_url, serve
from streaming.settings import Settings, load_settings
from streaming.sources.websocket import PoseSockets


def test_the_page_needs_nothing_from_elsewhere() -> None:
    async def scenario() -> None:
        async with served() as (client, url):
            async with client.get(url) as response:
                page = await response.text()
                assert response.status == 200 and "default-src 'self'" in response.headers["Content-Security-Policy"]
            for name in set(re.findall(r'(?:src|href)="(/web/[^"]+)"', page)) | {"/web/whep.js", "/web/meters.js"}:
                async with client.get(url + name) as response:
                    assert response.status == 200, name
            async with client.get(f"{url}/web/../server.py") as response:
                assert response.status == 404
            async with client.get(f"{url}/web/%2e%2e/server.py") as response:
                assert response.status in (403, 404)

    asyncio.run(scenario())
    for file in WEB.iterdir():
        outside = re.findall(r"https?://(?!www\.w3\.org/2000/svg)[^\s\"']+", file.read_text())
        assert not outside, (file.name, outside)


def test_health_and_readiness() -> None:
    async def status(client: aiohttp.ClientSession, address: str) -> tuple[int, str]:
        async with client.get(address) as response:
            return response.status, (await response.text()).strip()

    async def scenario(show: FakeShow) -> tuple[tuple[int, str], tuple[int, str]]:
        async with served(show) as (client, url):
            assert show.running
            await asyncio.sleep(0.3)
            return await status(client, f"{url}/healthz"), await status(client, f"{url}/readyz")

    show = FakeShow()
    assert asyncio.run(scenario(show)) == ((200, "alive"), (200, "live"))
    assert not show.running
    assert asyncio.run(scenario(FakeShow(live=False))) == ((200, "alive"), (503, "starting"))


def test_statistics_as_json_and_as_events() -> None:
    async def scenario() -> None:
        async with served(FakeShow(repeat_every=5)) as (client, url):
            await asyncio.sleep(2.3)
            async with client.get(f"{url}/stats") as response:
                stats = await response.json()
            assert stats["state"] == "live" and stats["viewers"] == 0 and stats["delay_ms"] is None
            assert stats["provenance"] == {
                "statement": provenance.statement("synthetic"),
                **provenance.facts("synthetic"),
            }
            assert stats["fps"]["target"] == 25 and stats["fps"]["painted"] < stats["fps"]["shown"] <= 26
            assert stats["frames"]["new"] > 3 * stats["frames"]["starved"] > 0
            assert stats["governor"] is None and stats["skips"] == {}
            assert stats["drops"]["denoise queue"] == 2 and stats["stages_ms"]["denoise"] == 12
            async with client.get(f"{url}/stats/stream") as response:
                assert response.headers["Content-Type"] == "text/event-stream"
                for _ in range(2):
                    line = await asyncio.wait_for(response.content.readuntil(b"\n\n"), 5)
                    assert json.loads(line.removeprefix(b"data: "))["avatar"] == "test picture"

    asyncio.run(scenario())


def test_metrics() -> None:
    async def scenario() -> str:
        async with served(FakeShow(repeat_every=4)) as (client, url):
            pc = await make_viewer("v")
            await watch(client, url, pc)
            track = pc.getTransceivers()[0].receiver.track
            for _ in range(5):
                await asyncio.wait_for(track.recv(), 10)
            async with client.get(f"{url}/metrics") as response:
                assert response.headers["Content-Type"].startswith("text/plain")
                text = await response.text()
            await pc.close()
            return text

    families = {family.name: family for family in text_string_to_metric_families(asyncio.run(scenario()))}
    value = {(s.name, *sorted(s.labels.items())): s.value for family in families.values() for s in family.samples}
    assert (
        value["liveanchor_frames_total", ("outcome", "new")]
        > 2 * value["liveanchor_frames_total", ("outcome", "starved")]
    )
    assert value["liveanchor_pose_to_send_seconds_count",] >= 4
    assert value["liveanchor_pose_to_send_seconds_sum",] / value["liveanchor_pose_to_send_seconds_count",] >= 0.12
    assert value["liveanchor_stage_seconds_count", ("stage", "denoise")] > 0
    assert value["liveanchor_engine_drops_total", ("reason", "denoise queue")] == 2
    assert value["liveanchor_keyframes_total", ("view", "picture")] >= 1
    assert value["liveanchor_viewers",] == 1
    assert not any("governor" in name for name in families)  # it is off
    assert all(name.startswith("liveanchor_") for name in families)


def test_meters_are_independent() -> None:
    one, other = Meter(), Meter()
    show = FakeShow()
    one.on_shown(Shown(show.take(0).picture), 0)
    assert b'liveanchor_frames_total{outcome="new"} 1.0' in one.exposition()
    assert b'outcome="new"' not in other.exposition()


def test_pages_of_other_sites() -> None:
    heard: list[object] = []

    async def scenario() -> None:
        app = build_app(
            FakeShow(),
            Settings(allowed_origins=("https://studio.example",)),
            on_pose=PoseSockets(lambda data: heard.append(data) is None),
        )
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(app, ready=ready.set_result, stop=stop))
        url = await ready
        async with aiohttp.ClientSession() as client:
            friend, stranger = {"Origin": "https://studio.example"}, {"Origin": "https://elsewhere.example"}
            async with client.options(f"{url}/whep", headers=friend) as response:
                assert response.headers["Access-Control-Allow-Origin"] == "https://studio.example"
                assert "Location" in response.headers["Access-Control-Expose-Headers"]
            async with client.post(f"{url}/whep", headers=friend | SDP, data="nonsense") as response:
                assert response.status == 400 and "Access-Control-Allow-Origin" in response.headers
            async with client.options(f"{url}/whep", headers=stranger) as response:
                assert "Access-Control-Allow-Origin" not in response.headers
            for headers in ({}, friend, {"Origin": url}):
                async with client.ws_connect(f"{url}/pose", headers=headers) as socket:
                    await socket.send_bytes(b"pose")
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await client.ws_connect(f"{url}/pose", headers=stranger)
            async with client.ws_connect(f"{url}/pose") as socket:
                stop.set()
                await task
                assert (await socket.receive()).data == aiohttp.WSCloseCode.GOING_AWAY
        assert heard == [b"pose"] * 3

    asyncio.run(scenario())


def test_it_stops_in_time_with_viewers_and_readers() -> None:
    async def scenario() -> float:
        show, stop, ready = FakeShow(), asyncio.Event(), asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(build_app(show, Settings()), ready=ready.set_result, stop=stop))
        url = await ready
        async with aiohttp.ClientSession() as client:
            pc = await make_viewer()
            await watch(client, url, pc)
            await asyncio.wait_for(pc.getTransceivers()[0].receiver.track.recv(), 10)
            async with client.get(f"{url}/stats/stream") as events:
                await events.content.readuntil(b"\n\n")
                began = time.monotonic()
                stop.set()
                await task
                took = time.monotonic() - began
        await pc.close()
        assert not show.running
        return took

    assert asyncio.run(scenario()) < 5  # the promise to whoever runs it: systemd, a container, a person


def test_an_address_that_is_taken() -> None:
    async def scenario() -> None:
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(build_app(FakeShow(), Settings()), ready=ready.set_result, stop=stop))
        port = int((await ready).rsplit(":", 1)[1])
        show = FakeShow()
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: Address already in use"):
            await serve(build_app(show, Settings()), port=port)
        assert not show.running
        stop.set()
        await task

    asyncio.run(scenario())


def test_page_addresses() -> None:
    assert page_url("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert page_url("0.0.0.0", 8080) == "http://127.0.0.1:8080"
    assert page_url("::1", 8080) == "http://[::1]:8080"


# -- settings


def test_settings_take_the_nearest_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "live.toml"
    file.write_text('port = 7001\nmax_viewers = 5\nhost = "::1"\nallowed_origins = ["https://a.example"]\n')
    monkeypatch.setenv("LIVEANCHOR_MAX_VIEWERS", "3")
    settings = load_settings(file, port=7002, avatar=None)
    assert (settings.port, settings.max_viewers, settings.host) == (7002, 3, "::1")
    assert settings.allowed_origins == ("https://a.example",)
    assert load_settings().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = 70000", "live.toml: port: expected less than or equal to 65535, got 70000"),
        ("prot = 7000", "live.toml: prot: expected one of allowed_origins, .*, got an unknown setting"),
        ("port = ", "live.toml: file: expected TOML, got Invalid value"),
        ('allowed_origins = ["studio"]', "live.toml: allowed_origins: expected an origin like https://studio.example"),
        ('ice_servers = ["http://x"]', "live.toml: ice_servers: expected an address like stun:host:port"),
    ],
)
def test_settings_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "live.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_settings(file)


def test_settings_name_the_variable_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEANCHOR_MAX_VIEWERS", "many")
    with pytest.raises(InputError, match="environment LIVEANCHOR_MAX_VIEWERS: max_viewers: expected a valid integer"):
        load_settings()
    monkeypatch.delenv("LIVEANCHOR_MAX_VIEWERS")
    monkeypatch.setenv("LIVEANCHOR_ICE_SERVERS", "[broken")
    with pytest.raises(InputError, match="environment: ice_servers"):
        load_settings()
    monkeypatch.delenv("LIVEANCHOR_ICE_SERVERS")
    with pytest.raises(InputError, match=r"no/such\.toml: file: expected a readable TOML file, got No such file"):
        load_settings(Path("no/such.toml"))
