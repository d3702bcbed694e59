"""Poses over UDP: each datagram goes straight to the intake."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from engine.errors import InputError
from streaming.sources.intake import Feed


@dataclass(frozen=True)
class UdpSource:
    """An open port. `close` ends it."""

    transport: asyncio.DatagramTransport

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        host, port = self.transport.get_extra_info("sockname")[:2]
        return host, port

    def close(self) -> None:
        """Stop listening."""
        self.transport.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.feed(data)


async def listen(host: str, port: int, feed: Feed) -> UdpSource:
    """Listen on `host`:`port` (0: any free port). InputError where that is not possible."""
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(feed), local_addr=(host, port))
    except OSError as error:
        raise InputError(
            f"udp://{host}:{port}", "address", "a free UDP port here", error.strerror or str(error)
        ) from None
    return UdpSource(transport)
