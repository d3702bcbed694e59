"""WHEP (draft-ietf-wish-whep): one POST with an offer gives a viewer the show, one DELETE takes it away.

Trickle ICE and ICE restarts are not spoken yet: PATCH is refused as the draft says, and the answer has all candidates.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import secrets
import time
from collections.abc import Callable
from typing import Literal, cast

import structlog
from aiohttp import web
from aiortc import (
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.exceptions import InternalError, InvalidAccessError, InvalidStateError, OperationError

from engine.errors import InputError
from streaming import provenance
from streaming.sources.datachannel import attach
from streaming.sources.intake import Feed
from streaming.webrtc.encoder import (
    VideoCodec,
    host_addresses,
    on_keyframe_request,
    set_host_addresses,
    set_stream_id,
)
from streaming.webrtc.offer import Offer, UnsupportedError, read_offer
from streaming.webrtc.transmitter import Transmitter

SDP = "application/sdp"
MAX_OFFER = 64 * 1024  # bytes; a browser's is about 8 KiB
CONNECT_S = 15.0  # a viewer that has not connected by then will not
SILENCE_S = 6.0  # receiver reports come about every second; a viewer that sends none for this long is gone
CHECK_S = 1.0
CLOSE_S = 2.0
RETRY_S = 5
DRAIN_S = 1  # what a viewer is told to wait where the server is about to stop

log = structlog.get_logger()

Outcome = Literal["connecting", "watching", "gone"]


class Session:
    """One viewer: a peer connection that sends, and a watch over it."""

    def __init__(
        self, pc: RTCPeerConnection, on_end: Callable[[Session], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.id = secrets.token_urlsafe(18)
        self.etag = f'"{secrets.token_urlsafe(9)}"'
        self.pc = pc
        self._on_end = on_end
        self._clock = clock
        self._began = clock()
        self._heard: tuple[object, float] | None = (
            None  # the last receiver report's own time, and when it was first seen
        )
        self._watch: asyncio.Task[None] | None = None
        self._ended = False
        self.log = log.bind(session=self.id[:8])

    def watch(self) -> None:
        """Begin to look after the connection."""
        self._watch = asyncio.get_running_loop().create_task(self._look_after())

    async def end(self, reason: str) -> None:
        """Close the connection and give its tracks back. Harmless the second time."""
        if self._ended:
            return
        self._ended = True
        if self._watch is not None and self._watch is not asyncio.current_task():
            self._watch.cancel()
        for sender in self.pc.getSenders():
            if sender.track is not None:
                sender.track.stop()
        self._on_end(self)
        self.log.info("viewer left", reason=reason, seconds=round(self._clock() - self._began, 1))
        closing = asyncio.get_running_loop().create_task(self.pc.close())
        await asyncio.wait({closing}, timeout=CLOSE_S)
        if not closing.done():
            closing.cancel()
            self.log.warning("connection did not close in time")
        elif error := closing.exception():
            self.log.warning("connection did not close", error=repr(error))

    async def _look_after(self) -> None:
        while (reason := await self._trouble()) is None:
            await asyncio.sleep(CHECK_S)
        await self.end(reason)

    async def _trouble(self) -> str | None:
        """Why this session is over, or None while it is not."""
        state = self.pc.connectionState
        if state in ("failed", "closed"):
            return f"connection {state}"
        now = self._clock()
        if state != "connected":
            return "did not connect" if now - self._began > CONNECT_S else None
        reports = [r.timestamp for r in (await self.pc.getStats()).values() if r.type == "remote-inbound-rtp"]
        newest = max(reports, default=None)
        if self._heard is None or newest != self._heard[0]:
            self._heard = (newest, now)
        return "silent" if now - self._heard[1] > SILENCE_S else None


class WhepEndpoint:
    """The resource `/whep` and the sessions below it."""

    def __init__(
        self,
        transmitter: Transmitter,
        max_viewers: int,
        ice_servers: tuple[str, ...] = (),
        feed: Feed | None = None,
    ) -> None:
        """`feed` takes the pose messages that a viewer sends over a data channel; without it they are ignored."""
        self._transmitter = transmitter
        self._feed = feed
        self._max_viewers = max_viewers
        self._ice_servers = ice_servers
        self._sessions: dict[str, Session] = {}
        self._arriving = 0
        self._draining = False

    @property
    def viewers(self) -> int:
        """Sessions that are open or being opened."""
        return len(self._sessions) + self._arriving

    def add_routes(self, app: web.Application) -> None:
        """Serve `/whep`."""
        app.router.add_route("POST", "/whep", self._post)
        app.router.add_route("OPTIONS", "/whep", self._options)
        app.router.add_route("DELETE", "/whep/{id}", self._delete)
        app.router.add_route("OPTIONS", "/whep/{id}", self._options)
        app.router.add_route("PATCH", "/whep/{id}", self._patch)

    async def close(self) -> None:
        """End every session and take no more."""
        self._draining = True
        await asyncio.gather(*(session.end("server stops") for session in tuple(self._sessions.values())))

    async def _post(self, request: web.Request) -> web.Response:
        if request.content_type != SDP:
            return _refuse(415, f"expected {SDP}, got {request.content_type}", {"Accept-Post": SDP})
        if self._draining:
            return _refuse(503, "the server is about to stop", {"Retry-After": str(DRAIN_S)})
        if self.viewers >= self._max_viewers:
            return _refuse(503, f"all {self._max_viewers} places are taken", {"Retry-After": str(RETRY_S)})
        self._arriving += 1
        try:
            return await self._admit(request)
        finally:
            self._arriving -= 1

    async def _admit(self, request: web.Request) -> web.Response:
        try:
            body = await request.content.read(MAX_OFFER + 1)
            while len(body) <= MAX_OFFER and (more := await request.content.read(MAX_OFFER + 1 - len(body))):
                body += more
            if len(body) > MAX_OFFER:
                return _refuse(413, f"offer: expected at most {MAX_OFFER} bytes")
            offer = read_offer(body.decode("utf-8"))
            session = await self._open(offer, loopback=_is_loopback(request.remote))
        except UnicodeDecodeError:
            return _refuse(400, "offer: expected UTF-8 text")
        except UnsupportedError as error:
            return _refuse(422, str(error))
        except InputError as error:
            return _refuse(400, str(error))
        session.log.info("viewer joins", sections=[f"{s.role}/{s.codec}" for s in offer.sections], peer=request.remote)
        headers = {"Content-Type": SDP, "Location": f"/whep/{session.id}", "ETag": session.etag}
        answer = _informed(session.pc.localDescription.sdp, provenance.statement(self._transmitter.person))
        response = web.Response(status=201, body=answer.encode(), headers=headers)
        response.headers.add("Link", f'<{provenance.SOURCE_TYPE}>; rel="type"')  # what kind of thing this is (RFC 6903)
        for server in self._ice_servers:
            response.headers.add("Link", f'<{server}>; rel="ice-server"')
        return response

    async def _open(self, offer: Offer, loopback: bool) -> Session:
        """A session that answers `offer`. InputError where aiortc finds fault with what the parser let through."""
        servers = [RTCIceServer(urls=url) for url in self._ice_servers]
        pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        session = Session(pc, self._forget)
        opened = False
        try:
            self._add_tracks(pc, offer)
            if self._feed is not None:
                pc.on("datachannel", functools.partial(attach, feed=self._feed))
            await pc.setRemoteDescription(RTCSessionDescription(offer.text, "offer"))
            set_host_addresses(pc, host_addresses(loopback))
            await pc.setLocalDescription(await pc.createAnswer())
            opened = not self._draining
        except (ValueError, InternalError, InvalidAccessError, InvalidStateError, OperationError) as error:
            raise InputError(
                "offer", "body", "an offer that can be answered", str(error) or type(error).__name__
            ) from None
        finally:
            if not opened:  # refused, cancelled, or a fault of ours: leave nothing behind
                await session.end("not opened")
        if not opened:
            raise UnsupportedError("server", "state", "serving", "about to stop")
        self._sessions[session.id] = session
        session.watch()
        return session

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session.id, None)

    def _add_tracks(self, pc: RTCPeerConnection, offer: Offer) -> None:
        """One sending transceiver for each section, in the offer's order: aiortc matches them by kind and order."""
        for section in offer.sections:
            if section.role == "poses":
                continue
            if section.role == "sound":
                transceiver = pc.addTransceiver(self._transmitter.sound(), "sendonly")
                transceiver.setCodecPreferences(_capabilities("audio", "opus"))
                continue
            codec = cast(VideoCodec, section.codec)
            transceiver = pc.addTransceiver(self._transmitter.video(section.role, codec), "sendonly")
            transceiver.setCodecPreferences(_capabilities("video", codec))
            on_keyframe_request(transceiver.sender, self._transmitter.keyframe_request(section.role, codec))
            if section.role == "condition":
                set_stream_id(transceiver.sender, "condition")

    async def _delete(self, request: web.Request) -> web.Response:
        session = self._sessions.get(request.match_info["id"])
        if session is None:
            return _refuse(404, "no such session")
        await session.end("viewer said so")
        return web.Response()

    async def _patch(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self._sessions:
            return _refuse(404, "no such session")
        return _refuse(405, "trickle ICE and ICE restarts are not supported", {"Allow": "DELETE, OPTIONS"})

    async def _options(self, request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Accept-Post": SDP})


def _informed(answer: str, line: str) -> str:
    """The answer with `line` as information about the session, in its place behind the name (RFC 8866 section 5.4)."""
    return re.sub(r"(?m)^(s=.*\r\n)", rf"\1i={line}\r\n", answer, count=1)


def _capabilities(kind: str, codec: str) -> list:  # type: ignore[type-arg]
    """aiortc's capabilities of one codec, retransmission included."""
    wanted = {f"{kind}/{codec}", f"{kind}/rtx"}
    return [c for c in RTCRtpSender.getCapabilities(kind).codecs if c.mimeType.lower() in wanted]


def _refuse(status: int, line: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=line + "\n", headers=headers)


def _is_loopback(address: str | None) -> bool:
    try:
        return address is not None and ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
