"""Replay a clip into a running server at its own pace, as a motion-capture program would, with speech alongside.

`script` says what is to be sent when; `send` does it, over UDP or WebSocket. The schedule is absolute, so nothing
drifts. What is already late is not sent: a live sender does not queue.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import numpy as np
from yarl import URL

from engine.errors import InputError
from engine.pose import PoseClip
from streaming.clock import MS, NS, Clock, MonotonicClock
from streaming.messages import SAMPLE_RATE, PoseMessage, SpeechMessage
from streaming.sources.file import Player
from streaming.sources.wire import MAX_BYTES, encode_into

CHUNK = SAMPLE_RATE // 100  # samples in a speech message, 10 ms: 988 bytes
LATE_NS = 250 * MS  # a message later than this is left out
BETAS = 16  # of the clip's betas, as many as fit beside a whole frame and as most models have
BACK_OFF_S = (0.25, 0.5, 1.0, 2.0, 4.0)  # between attempts to connect again; the last one repeats
PATIENCE_S = 60.0  # without a connection, before giving up
HEARTBEAT_S = 15.0  # a WebSocket that does not answer for about so long is lost
FIRST_NS = NS  # a UDP port that refuses so early was never open
HINT = "is `liveanchor serve` running there?"


@dataclass
class Progress:
    """How far a replay is."""

    seconds: float = 0.0  # since the start
    of_seconds: float = 0.0  # one round
    frames: int = 0  # pose messages sent
    speech: int = 0  # speech messages sent
    skipped: int = 0  # messages left out because they were late
    refused: int = 0  # datagrams that found nobody
    reconnects: int = 0


class Link(Protocol):
    """A way to the server."""

    async def open(self) -> None:
        """Connect. InputError where that fails."""

    async def send(self, data: memoryview) -> None:
        """Send one message; connects again where the connection was lost."""

    async def close(self) -> None:
        """Harmless where it is not open."""


def script(
    clip: PoseClip, speech: np.ndarray | None, start_ns: int, session: int, loop: bool = False
) -> Iterator[tuple[int, PoseMessage | SpeechMessage]]:
    """(when to send, what) in order of time: a frame when it is captured, a piece of speech when it has been spoken."""
    player = Player(clip, speech, start_ns, loop, CHUNK)

    def frames() -> Iterator[tuple[int, PoseMessage]]:
        betas = clip.betas[:BETAS] if len(clip.betas) else None
        for i in itertools.count():
            due_ns = start_ns + round(i * NS / clip.fps)
            if player.ended(due_ns):
                return
            often = i % max(1, round(clip.fps)) == 0  # betas once a second
            yield due_ns, PoseMessage.of(player.frame(due_ns), session, i % (1 << 32), betas if often else None)

    def pieces() -> Iterator[tuple[int, SpeechMessage]]:
        count = 0
        for tick in itertools.count(1):
            due_ns = start_ns + tick * CHUNK * NS // SAMPLE_RATE
            for samples, capture_ns in player.speech(due_ns):
                yield due_ns, SpeechMessage(session, count % (1 << 32), capture_ns, samples)
                count += 1
            if player.ended(due_ns):
                return

    if speech is None or not len(speech):
        return frames()
    return heapq.merge(frames(), pieces(), key=lambda event: event[0])


async def send(
    clip: PoseClip,
    speech: np.ndarray | None,
    target: str,
    *,
    loop: bool = False,
    headers: Mapping[str, str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    clock: Clock | None = None,
) -> Progress:
    """Replay `clip` and `speech` ((n,) int16, 48 kHz mono) to `target`: ws://HOST:PORT/pose, wss://... or udp://HOST:PORT.

    Ends with the clip, or with `loop` when cancelled. `headers` go with the WebSocket request. Raises InputError where
    the target is no such address, where nobody listens there at the start, or when a lost connection stays lost for a
    minute.
    """
    clock = clock or MonotonicClock()
    progress = Progress()
    link = connect(target, progress, clock, headers or {})
    buffer = bytearray(MAX_BYTES)
    await link.open()
    try:
        start_ns = clock.now_ns()
        progress.of_seconds = Player(clip, speech, 0, loop).period_ns / NS
        for due_ns, message in script(clip, speech, start_ns, secrets.randbits(32), loop):
            wait_ns = due_ns - clock.now_ns()
            if wait_ns > 0:
                await asyncio.sleep(wait_ns / NS)
            elif wait_ns < -LATE_NS:
                progress.skipped += 1
                continue
            size = encode_into(buffer, message)
            await link.send(memoryview(buffer)[:size])
            progress.seconds = (due_ns - start_ns) / NS
            if isinstance(message, SpeechMessage):
                progress.speech += 1
                continue
            progress.frames += 1
            if on_progress is not None:
                on_progress(progress)
    finally:
        await link.close()
    return progress


def connect(target: str, progress: Progress, clock: Clock, headers: Mapping[str, str]) -> Link:
    """The link for an address, not open yet. InputError where it is none."""
    try:
        url = URL(target)
        port = url.explicit_port or url.port
    except ValueError as error:
        raise _bad(target, str(error)) from None
    if url.scheme in ("ws", "wss") and url.host:
        return _WebSocketLink(url if url.path not in ("", "/") else url.with_path("/pose"), progress, headers)
    if url.scheme == "udp" and url.host and port:
        return _UdpLink(target, url.host, port, progress, clock)
    raise _bad(target, "none of these" if url.scheme != "udp" else "no host or no port")


def _bad(target: str, got: str) -> InputError:
    return InputError(target, "address", "ws://HOST:PORT/pose or udp://HOST:PORT", got)


class _UdpLink(asyncio.DatagramProtocol):
    def __init__(self, target: str, host: str, port: int, progress: Progress, clock: Clock) -> None:
        self._target, self._host, self._port = target, host, port
        self._progress, self._clock = progress, clock
        self._transport: asyncio.DatagramTransport | None = None
        self._opened_ns = 0
        self._error: str | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_datagram_endpoint(lambda: self, remote_addr=(self._host, self._port))
        except OSError as error:
            raise InputError(self._target, "host", "a host that can be reached", error.strerror or str(error)) from None
        self._opened_ns = self._clock.now_ns()

    async def send(self, data: memoryview) -> None:
        assert self._transport is not None
        if self._error is not None and self._clock.now_ns() - self._opened_ns < FIRST_NS:
            raise InputError(self._target, "connection", "a server that listens", self._error, HINT)
        self._transport.sendto(bytes(data))

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def error_received(self, exc: Exception) -> None:
        self._error = getattr(exc, "strerror", None) or str(exc)
        self._progress.refused += 1


class _WebSocketLink:
    def __init__(self, url: URL, progress: Progress, headers: Mapping[str, str]) -> None:
        self._url, self._progress, self._headers = url, progress, headers
        self._client: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._client = aiohttp.ClientSession(headers=self._headers)
        try:
            await self._connect()
        except InputError:
            await self.close()
            raise

    async def send(self, data: memoryview) -> None:
        if self._socket is None or self._socket.closed:
            await self._reconnect()
        assert self._socket is not None
        try:
            await self._socket.send_bytes(bytes(data))
        except (ConnectionError, aiohttp.ClientError):
            await self._reconnect()  # this message is lost, as it would be on a network

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        if self._socket is not None:
            await self._socket.close()
        if self._client is not None:
            await self._client.close()

    async def _connect(self) -> None:
        assert self._client is not None
        try:
            self._socket = await self._client.ws_connect(self._url, heartbeat=HEARTBEAT_S)
        except aiohttp.WSServerHandshakeError as error:
            raise InputError(str(self._url), "address", "a WebSocket", f"HTTP {error.status}", HINT) from None
        except (aiohttp.ClientError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(str(self._url), "connection", "a server that listens", reason, HINT) from None
        if self._reader is not None:
            self._reader.cancel()
        self._reader = asyncio.create_task(_drain(self._socket))

    async def _reconnect(self) -> None:
        """Try again, ever less often, until it works or patience ends."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        for pause in itertools.chain(BACK_OFF_S, itertools.repeat(BACK_OFF_S[-1])):
            await asyncio.sleep(pause)
            try:
                await self._connect()
            except InputError:
                if loop.time() > until:
                    raise
            else:
                self._progress.reconnects += 1
                return


async def _drain(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Read, so that pings are answered and a close is noticed; what the server says is not for us."""
    async for _ in socket:
        pass
