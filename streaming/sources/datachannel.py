"""Poses over a WebRTC data channel: an adapter for aiortc. The sender opens it unordered and without retransmits."""

from __future__ import annotations

from aiortc import RTCDataChannel

from streaming.sources.intake import Feed


def attach(channel: RTCDataChannel, feed: Feed) -> None:
    """From now on each message of `channel` goes to `feed`. Ends with the channel."""

    def take(data: bytes | str) -> None:
        feed(data)

    channel.on("message", take)
