"""Poses over WebSocket, for aiohttp. Each binary message is one message of the wire format; nothing is answered."""

from __future__ import annotations

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from streaming.sources.intake import Feed

MAX_MESSAGE = 16 * 1024  # bytes; a longer one ends the connection before it is held
HEARTBEAT_S = 20.0

log = structlog.get_logger(__name__)


class PoseSockets:
    """The senders that are connected. `handle` is the route's handler: `PoseSockets(feed).install(app, "/pose")`.

    At most `most` at a time: one more is closed with 1013, try again later.
    """

    def __init__(self, feed: Feed, most: int = 8) -> None:
        self.feed = feed
        self._most = most
        self._open: set[web.WebSocketResponse] = set()

    def install(self, app: web.Application, path: str) -> None:
        """Add the route, and close all connections when `app` shuts down."""
        app.router.add_get(path, self.handle)
        app.on_shutdown.append(self._close)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection until it ends."""
        socket = web.WebSocketResponse(max_msg_size=MAX_MESSAGE, heartbeat=HEARTBEAT_S, compress=False)
        await socket.prepare(request)
        if len(self._open) >= self._most:
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"too many senders")
            return socket
        self._open.add(socket)
        log.info("sender connected", peer=request.remote)
        try:
            async for message in socket:
                if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                    self.feed(message.data)
        finally:
            self._open.discard(socket)
            log.info("sender gone", peer=request.remote, code=socket.close_code)
        return socket

    async def _close(self, _: web.Application) -> None:
        for socket in list(self._open):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server stops")
