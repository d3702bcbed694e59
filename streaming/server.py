"""The HTTP face of a show: the page, WHEP, poses by WebSocket, statistics, metrics, health. It knows no engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from engine.errors import InputError
from streaming.metrics import Meter
from streaming.settings import Settings
from streaming.show import Show
from streaming.sources.websocket import PoseSockets
from streaming.webrtc.transmitter import Rates, Transmitter
from streaming.webrtc.whep import WhepEndpoint

WEB = Path(__file__).parent / "web"
STATS_PERIOD_S = 0.5
SHUTDOWN_S = 2.0
MAX_EVENT_STREAMS = 64

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

log = structlog.get_logger()


def build_app(
    show: Show, settings: Settings, *, on_pose: PoseSockets | None = None, version: str = ""
) -> web.Application:
    """The application. Starting it starts `show`; its clean-up stops it.

    `on_pose` serves the WebSocket `/pose` and takes poses from viewers' data channels; without it there are none.
    """
    meter = Meter(version)
    rates = Rates(picture=settings.picture_bitrate, condition=settings.condition_bitrate, sound=settings.sound_bitrate)
    transmitter = Transmitter(show, meter, rates, threads=settings.encode_threads)
    whep = WhepEndpoint(transmitter, settings.max_viewers, settings.ice_servers, on_pose.feed if on_pose else None)
    meter.collect_from(show, lambda: whep.viewers)
    pages = _Pages(show, meter, whep)

    app = web.Application(client_max_size=64 * 1024)
    _origin_rules(app, settings.allowed_origins)
    whep.add_routes(app)
    app.router.add_get("/", pages.index)
    app.router.add_get("/stats", pages.stats)
    app.router.add_get("/stats/stream", pages.stats_stream)
    app.router.add_get("/metrics", pages.metrics)
    app.router.add_get("/healthz", pages.healthz)
    app.router.add_get("/readyz", pages.readyz)
    if on_pose is not None:
        on_pose.install(app, "/pose")
    app.router.add_static("/web", WEB)

    async def life(app: web.Application) -> AsyncIterator[None]:
        try:
            await show.start()
            await transmitter.start()
            yield
        finally:
            await transmitter.stop()
            await show.stop()

    async def drain(app: web.Application) -> None:
        pages.stopping.set()
        await whep.close()

    app.cleanup_ctx.append(life)
    app.on_shutdown.append(drain)
    return app


async def serve(
    app: web.Application,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    ready: Callable[[str], None] = lambda url: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until `stop` is set or the task is cancelled, then shut down in less than five seconds.

    Port 0 takes a free one. `ready` is called with the page's address. InputError where that cannot be had.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        try:
            listener = _listen(host, port)
        except OSError as error:
            raise InputError(
                "server", "address", "one that can be listened on", f"{host}:{port}: {error.strerror}"
            ) from None
        await web.SockSite(runner, listener).start()
        url = page_url(host, listener.getsockname()[1])
        log.info("serving", url=url)
        ready(url)
        await (stop or asyncio.Event()).wait()
    finally:
        await runner.cleanup()


def run(
    app: web.Application, host: str = "127.0.0.1", port: int = 0, *, ready: Callable[[str], None] = lambda url: None
) -> None:
    """`serve` in an event loop of its own, until SIGINT or SIGTERM."""
    import signal

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt instead
                loop.add_signal_handler(number, stop.set)
        await serve(app, host, port, ready=ready, stop=stop)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())


def page_url(host: str, port: int) -> str:
    """The address to type into a browser for a server that listens on `host`."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


class _Pages:
    """The handlers that only look."""

    def __init__(self, show: Show, meter: Meter, whep: WhepEndpoint) -> None:
        self._show, self._meter, self._whep = show, meter, whep
        self._streams = 0
        self.stopping = asyncio.Event()

    async def index(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(WEB / "index.html", headers=PAGE_HEADERS)

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response(self._snapshot(), headers={"Cache-Control": "no-store"})

    async def stats_stream(self, request: web.Request) -> web.StreamResponse:
        """The snapshot twice a second as server-sent events, until the server stops or the page leaves."""
        if self._streams >= MAX_EVENT_STREAMS:
            raise web.HTTPServiceUnavailable(text="too many readers\n", headers={"Retry-After": "5"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        self._streams += 1
        try:
            while not self.stopping.is_set():
                await response.write(f"data: {json.dumps(self._snapshot())}\n\n".encode())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), STATS_PERIOD_S)
        except ConnectionError:
            pass
        finally:
            self._streams -= 1
        return response

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._meter.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(self, request: web.Request) -> web.Response:
        if self.stopping.is_set():
            return web.Response(status=503, text="stopping\n")
        state = self._snapshot()["state"]
        return web.Response(status=503 if state in ("starting", "failed") else 200, text=f"{state}\n")

    def _snapshot(self) -> dict[str, object]:
        return self._meter.snapshot(self._show, self._whep.viewers)


def _origin_rules(app: web.Application, allowed: tuple[str, ...]) -> None:
    """Pages of other sites may use this server only where allowed: CORS for requests, a refusal for WebSockets.

    Browsers hold back requests without CORS headers by themselves, but not WebSockets (RFC 6455 section 10.2).
    """

    def foreign_origin(request: web.Request) -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin is not None and urlsplit(origin).netloc != request.host else None

    def is_allowed(origin: str) -> bool:
        return "*" in allowed or origin in allowed

    @web.middleware
    async def refuse_sockets(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = foreign_origin(request)
        if origin is not None and "Upgrade" in request.headers and not is_allowed(origin):
            return web.Response(status=403, text="pages of this site may not connect here\n")
        return await handler(request)

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        origin = foreign_origin(request)
        if origin is not None and is_allowed(origin):
            response.headers.update(_cors(origin))

    app.middlewares.append(refuse_sockets)
    app.on_response_prepare.append(add_headers)


def _cors(origin: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": "Content-Type, Authorization, If-Match",
        "Access-Control-Expose-Headers": "Location, ETag, Link, Accept-Post, Retry-After",
        "Vary": "Origin",
    }


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, IPv6 where `host` is such an address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
