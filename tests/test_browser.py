"""The page in a real browser: Debian's headless Chromium plays the show, and is measured and photographed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from chromium import Page, browser, find_chromium
from fake_show import CORNER, FakeShow

from engine.avatar import bundled_avatar
from engine.gear import Gear
from streaming.governor import GovernorStatus
from streaming.provenance import statement
from streaming.server import build_app, serve
from streaming.settings import Settings
from streaming.show import Show

ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"
CHROMIUM = find_chromium()
PLAY_S = 10

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium-headless-shell")

LIVE = "document.body?.dataset.state === 'live'"
FRAMES = "document.getElementById('anchor').getVideoPlaybackQuality().totalVideoFrames"

PIXELS = """(() => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 64;
  const context = canvas.getContext('2d');
  context.drawImage(document.getElementById('%s'), 0, 0, 64, 64);
  return [...context.getImageData(0, 0, 64, 64).data];
})()"""

MARK = """(() => {
  const [mark, screen] = ['mark', 'screen'].map((id) => document.getElementById(id).getBoundingClientRect());
  const inside = mark.left >= screen.left && mark.right <= screen.right && mark.bottom <= screen.bottom;
  return { inside, left: mark.left, top: (mark.top - screen.top) / screen.height, lines: Math.round(mark.height / 20) };
})()"""

LISTEN = """(async () => {
  const audio = new AudioContext();
  await audio.resume();
  const analyser = audio.createAnalyser();
  audio.createMediaStreamSource(document.getElementById('anchor').srcObject).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  let peak = 0;
  for (let i = 0; i < 40; i++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    analyser.getFloatTimeDomainData(samples);
    peak = Math.max(peak, ...samples.map(Math.abs));
  }
  await audio.close();
  return peak;
})()"""


@contextlib.asynccontextmanager
async def serving(show: Show, port: int = 0, **settings: object) -> AsyncIterator[str]:
    """A real server for a moment."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(build_app(show, Settings(**settings)), port=port, ready=ready.set_result, stop=stop)
    )
    try:
        yield await ready
    finally:
        stop.set()
        await task


async def photograph(page: Page, name: str) -> None:
    """Save the page as a desk and as a phone show it."""
    for device, width, height, scale in (("desktop", 1280, 800, 1), ("phone", 390, 844, 2)):
        await page.resize(width, height, scale, mobile=device == "phone")
        await asyncio.sleep(0.5)
        await page.screenshot(ARTIFACTS / f"{name}-{device}.png")


async def play(page: Page) -> float:
    """Frames decoded a second over ten seconds, while the pictures' content is seen to change."""
    await page.until(LIVE)
    await asyncio.sleep(1)
    loop = asyncio.get_running_loop()
    began, before = loop.time(), await page.value(FRAMES)
    looks = set()
    while loop.time() < began + PLAY_S:
        looks.add(tuple(await page.value(PIXELS % "anchor")))
        await asyncio.sleep(0.5)
    rate = (await page.value(FRAMES) - before) / (loop.time() - began)
    assert len(looks) > 5, "the pictures do not differ"
    return float(rate)


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_the_page_plays_the_show(codec: str) -> None:
    async def scenario() -> None:
        async with serving(FakeShow()) as url, browser(str(CHROMIUM)) as page:
            await page.open(f"{url}/?codec={codec}")
            rate = await play(page)
            assert rate >= 20, f"{rate:.1f} frames decoded a second"
            assert await page.value(LISTEN) > 0.02, "silence"
            widths = [
                await page.value(f"document.getElementById('{view}').videoWidth") for view in ("anchor", "condition")
            ]
            assert widths == [512, 256]
            corner = (await page.value(PIXELS % "anchor"))[4 * (3 * 64 + 3) :][:3]
            assert max(abs(seen - sent) for seen, sent in zip(corner, CORNER, strict=True)) < 12, corner
            assert float(await page.value("document.getElementById('rate').textContent")) > 20
            assert int(await page.value("document.getElementById('delay').textContent")) >= 120
            assert await page.value("document.getElementById('anchor').muted")
            await page.value("document.getElementById('sound').click()")
            assert not await page.value("document.getElementById('anchor').muted")
            assert await page.value("document.getElementById('sound').getAttribute('aria-pressed')") == "true"
            await page.resize(360, 640, mobile=True)
            assert await page.value("document.documentElement.scrollWidth") <= 360
            await photograph(page, f"page-{codec}")
            assert not [line for line in page.console if "exception" in line], page.console

    asyncio.run(scenario())


def test_the_page_shows_the_gear_where_it_is_governed() -> None:
    text = "document.getElementById('gear').hidden ? '' : document.getElementById('gear').textContent"
    governed = GovernorStatus(1, 3, Gear(face_every=2), {"down": 1, "up": 0}, None)

    async def scenario(show: FakeShow) -> str:
        async with serving(show) as url, browser(str(CHROMIUM)) as page:
            await page.open(url)
            await page.until("document.getElementById('work').textContent !== '–'", 60)
            return str(await page.value(text))

    assert asyncio.run(scenario(FakeShow(governor=governed))) == "gear 2 of 3: face in one frame of 2"
    assert asyncio.run(scenario(FakeShow())) == ""


def test_the_page_says_whom_it_shows_wherever_it_shows_it() -> None:
    """Large, small, and full screen; to eyes and to screen readers; in the server's words."""

    async def scenario() -> None:
        async with serving(FakeShow()) as url, browser(str(CHROMIUM)) as page:
            await page.open(url)
            await page.until(LIVE, 60)
            assert await page.value("document.getElementById('mark').textContent") == statement("synthetic")
            await photograph(page, "page-mark")
            for width, height in ((1280, 800), (360, 640)):
                await page.resize(width, height)
                mark = await page.value(MARK)
                assert mark["inside"] and mark["lines"] == 1 and mark["top"] > 0.85, mark  # a face is higher up
            nodes = (await page.send("Accessibility.getFullAXTree"))["nodes"]
            video = next(n for n in nodes if n.get("name", {}).get("value") == "The anchor, live")
            assert video["description"]["value"] == statement("synthetic")
            await page.resize(1280, 800)
            click = "document.getElementById('full').click()"
            await page.send("Runtime.evaluate", expression=click, userGesture=True)
            await page.until("document.fullscreenElement?.id === 'screen'")
            mark = await page.value(MARK)
            assert mark["inside"] and mark["left"] > (1280 - 800) / 2, mark  # on the picture, not beside it
            await page.screenshot(ARTIFACTS / "page-mark-full.png")

    asyncio.run(scenario())


def test_the_page_plays_the_bundled_anchor() -> None:
    """The whole way of a frame: the bundled clip through the bundled avatar's networks into a browser."""
    if not (bundled_avatar() / "avatar.toml").is_file():
        pytest.skip(f"no bundled avatar: {bundled_avatar() / 'avatar.toml'} does not exist")
    from streaming.opening import open_show

    async def scenario() -> None:
        async with serving(open_show(Settings())) as url, browser(str(CHROMIUM)) as page:
            await page.open(url)
            await page.until(LIVE, 120)  # loads and compiles the networks
            rate = await play(page)
            await photograph(page, "page-anchor")
            assert rate >= 20, f"{rate:.1f} frames decoded a second"
            assert await page.value(LISTEN) > 0.02, "silence"
            assert not [line for line in page.console if "exception" in line], page.console

    asyncio.run(scenario())


def test_the_page_says_what_is_wrong_and_comes_back() -> None:
    async def scenario() -> None:
        async with browser(str(CHROMIUM)) as page:
            async with serving(FakeShow(live=False)) as url:
                await page.open(url)
                await page.until("document.getElementById('notice-title').textContent.includes('first picture')")
                assert await page.value("document.body.dataset.state") == "connecting"
            await page.until("document.getElementById('notice-title').textContent.includes('does not answer')")
            await photograph(page, "page-unreachable")
            port = int(url.rsplit(":", 1)[1])
            async with serving(FakeShow(), port=port):
                await page.value("document.getElementById('again').click()")
                await page.until(LIVE)
            await page.until(f"!({LIVE})")
        async with serving(FakeShow(), max_viewers=1) as url, browser(str(CHROMIUM)) as page:
            async with browser(str(CHROMIUM)) as other:
                await other.open(url)
                await other.until(LIVE)
                await page.open(url)
                await page.until("document.getElementById('notice-title').textContent === 'All places are taken'")
                await other.send("Page.navigate", url="about:blank")  # leaves; the page tells the server so
            await page.value("document.getElementById('again').click()")
            await page.until(LIVE)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("missing", "title"),
    [
        ("delete window.RTCPeerConnection", "This browser has no WebRTC"),
        (
            "RTCRtpReceiver.getCapabilities = () => ({codecs: [{mimeType: 'video/AV1'}]})",
            "This browser cannot decode the video",
        ),
        (
            "RTCPeerConnection.prototype.setRemoteDescription = async () => {}",
            "The video cannot",
        ),
    ],
)
def test_the_page_in_a_browser_that_lacks_something(missing: str, title: str) -> None:
    async def scenario() -> None:
        async with serving(FakeShow()) as url, browser(str(CHROMIUM)) as page:
            await page.send("Page.enable")
            await page.send("Page.addScriptToEvaluateOnNewDocument", source=missing)
            await page.open(url)
            await page.until(f"document.getElementById('notice-title')?.textContent.startsWith({title!r})", 30)
            await photograph(page, "page-" + title.split()[-1].lower())

    asyncio.run(scenario())
