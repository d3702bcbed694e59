"""Drives Debian's chromium-headless-shell over the DevTools protocol, with nothing but aiohttp."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium-headless-shell", "chromium", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)


def find_chromium() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(os.environ.get("CHROMIUM", name)))), None)


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self.console: list[str] = []

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        reply = await asyncio.wait_for(answer, 30)
        assert "error" not in reply, reply["error"]
        return dict(reply["result"])

    async def open(
        self, url: str, width: int = 1280, height: int = 800, scale: float = 1, mobile: bool = False
    ) -> None:
        """Go to `url` in a window of that size."""
        await self.send("Runtime.enable")
        await self.send("Log.enable")
        await self.send("Page.enable")
        await self.resize(width, height, scale, mobile)
        await self.send("Page.navigate", url=url)
        await self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    async def resize(self, width: int, height: int, scale: float = 1, mobile: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
        await self.send("Emulation.setDeviceMetricsOverride", **size)

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression (or a promise of it) comes to."""
        reply = await self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    async def until(self, expression: str, timeout: float = 20) -> Any:
        """Wait for an expression to be true."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not (value := await self.value(expression)):
            seen = await self.value("document.body?.innerText")
            assert asyncio.get_running_loop().time() < deadline, (
                f"still not {expression}; console {self.console}; page: {seen}"
            )
            await asyncio.sleep(0.1)
        return value

    async def screenshot(self, path: Path, full: bool = False) -> None:
        """Save what the window shows, or the whole page, as PNG."""
        reply = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(reply["data"]))

    async def close(self) -> None:
        self._reader.cancel()
        await self._socket.close()

    async def _read(self) -> None:
        async for message in self._socket:
            reply = message.json()
            if reply.get("id") in self._waiting:
                self._waiting.pop(reply["id"]).set_result(reply)
            elif reply.get("method") == "Runtime.consoleAPICalled":
                self.console.append(
                    " ".join(str(arg.get("value", arg.get("description"))) for arg in reply["params"]["args"])
                )
            elif reply.get("method") == "Runtime.exceptionThrown":
                self.console.append("exception: " + str(reply["params"]["exceptionDetails"]))
            elif reply.get("method") == "Log.entryAdded":
                self.console.append(
                    f"log: {reply['params']['entry']['text']} {reply['params']['entry'].get('url', '')}"
                )


@contextlib.asynccontextmanager
async def browser(executable: str, *flags: str) -> AsyncIterator[Page]:
    """A browser with a fresh profile and one tab, gone afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            executable, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            port = await asyncio.wait_for(_debugging_port(Path(profile), process), 30)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    tab = next(target for target in await response.json() if target["type"] == "page")
                socket = await session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=64 * 1024 * 1024)
                page = Page(socket)
                try:
                    yield page
                finally:
                    await page.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _debugging_port(profile: Path, process: asyncio.subprocess.Process) -> int:
    file = profile / "DevToolsActivePort"
    while not (file.exists() and file.read_text().strip()):
        assert process.returncode is None, "the browser ended"
        await asyncio.sleep(0.05)
    return int(file.read_text().splitlines()[0])
