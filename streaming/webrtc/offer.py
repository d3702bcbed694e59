"""What a viewer's SDP offer asks for: the one door through which text from strangers reaches aiortc.

Pure: text in, a small dataclass out. It knows no sockets and no sessions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from aiortc import sdp

from engine.errors import InputError
from streaming.webrtc.encoder import VideoCodec

MAX_CANDIDATES = 40  # a browser on a laptop with many interfaces offers about a dozen

Role = Literal["picture", "condition", "sound", "poses"]


class UnsupportedError(InputError):
    """A sound offer for something that this server does not do (HTTP 422)."""


@dataclass(frozen=True)
class Section:
    """One media section of the offer."""

    role: Role
    codec: VideoCodec | Literal["opus", "sctp"]


@dataclass(frozen=True)
class Offer:
    """An offer that can be answered. `sections` are in the offer's order; `text` is what aiortc may read."""

    text: str
    sections: tuple[Section, ...]


def read_offer(text: str) -> Offer:
    """Read a WHEP offer: one or two video sections (the picture, then its mesh condition), one of sound, and one of data
    channels, over which a viewer who is also the performer sends poses (docs/wire.md).

    Raises InputError where it is not such an SDP, UnsupportedError where it is but cannot be served.
    """
    if not text.startswith("v=0"):
        raise InputError("offer", "first line", "v=0", repr(text[:20]))
    cleaned = _without_hidden_candidates(text)
    try:
        description = sdp.SessionDescription.parse(cleaned)
    except Exception as error:  # aiortc's parser answers nonsense with whatever its line happened to raise
        raise InputError("offer", "body", "session description (RFC 8866)", _one_line(error)) from None
    if not description.media:
        raise InputError("offer", "media", "at least one section", "none")
    sections: list[Section] = []
    mids: set[str] = set()
    for number, media in enumerate(description.media):
        where = f"m={media.kind} (section {number})"
        _check_transport(where, media)
        if not media.rtp.muxId or media.rtp.muxId in mids:
            raise InputError("offer", f"{where} a=mid", "a name of its own", repr(media.rtp.muxId))
        mids.add(media.rtp.muxId)
        sections.append(Section(_role(where, media, sections), _codec(where, media)))
    if all(section.role == "poses" for section in sections):
        raise UnsupportedError("offer", "media", "audio or video", "only data channels")
    bundles = [group.items for group in description.group if group.semantic == "BUNDLE"]
    if (bundles or len(sections) > 1) and [sorted(items) for items in bundles] != [sorted(mids)]:
        raise UnsupportedError("offer", "a=group", "BUNDLE of all sections", repr(bundles) if bundles else "none")
    return Offer(cleaned, tuple(sections))


def _check_transport(where: str, media: sdp.MediaDescription) -> None:
    if media.port == 0:
        raise UnsupportedError("offer", where, "an active section", "port 0")
    if not re.fullmatch(r"[\w+/-]{4,256}", media.ice.usernameFragment or ""):
        raise InputError("offer", f"{where} a=ice-ufrag", "4 to 256 characters", repr(media.ice.usernameFragment))
    if not re.fullmatch(r"[\w+/-]{22,256}", media.ice.password or ""):
        raise InputError("offer", f"{where} a=ice-pwd", "22 to 256 characters", "another length or other characters")
    if not media.dtls or not media.dtls.fingerprints:
        raise InputError("offer", f"{where} a=fingerprint", "a certificate fingerprint", "none")
    if media.kind in ("audio", "video") and not media.rtcp_mux:
        raise UnsupportedError("offer", where, "a=rtcp-mux", "none")


def _role(where: str, media: sdp.MediaDescription, before: list[Section]) -> Role:
    roles = [section.role for section in before]
    if media.kind == "application":
        if "poses" in roles:
            raise UnsupportedError("offer", where, "one section of data channels", "a second one")
        return "poses"
    if media.kind not in ("audio", "video"):
        raise UnsupportedError("offer", where, "audio, video or application", media.kind)
    if media.direction not in ("recvonly", "sendrecv"):
        raise UnsupportedError("offer", where, "a=recvonly", f"a={media.direction}")
    if media.kind == "audio":
        if "sound" in roles:
            raise UnsupportedError("offer", where, "one audio section", "a second one")
        return "sound"
    if "condition" in roles:
        raise UnsupportedError("offer", where, "one or two video sections", "a third one")
    return "condition" if "picture" in roles else "picture"


def _codec(where: str, media: sdp.MediaDescription) -> VideoCodec | Literal["opus", "sctp"]:
    """H.264 where it is offered as aiortc can answer it (constrained baseline, packetization mode 1), else VP8."""
    if media.kind == "application":
        if media.sctpmap == {} and media.sctp_port is None:
            raise UnsupportedError("offer", where, "data channels over SCTP", "none")
        return "sctp"
    offered = [codec.name.lower() for codec in media.rtp.codecs]
    if media.kind == "audio":
        if "opus" not in offered:
            raise UnsupportedError("offer", where, "Opus", ", ".join(offered) or "no codec")
        return "opus"
    if any(codec.name.lower() == "h264" and _is_baseline(codec.parameters) for codec in media.rtp.codecs):
        return "h264"
    if "vp8" not in offered:
        raise UnsupportedError("offer", where, "H.264 baseline or VP8", ", ".join(dict.fromkeys(offered)) or "no codec")
    return "vp8"


def _is_baseline(parameters: dict[str, int | str | None]) -> bool:
    if str(parameters.get("packetization-mode", "0")) != "1":
        return False
    try:
        profile, _ = sdp.parse_h264_profile_level_id(str(parameters.get("profile-level-id", "42E01F")))
    except ValueError:
        return False
    return profile in (sdp.H264Profile.PROFILE_BASELINE, sdp.H264Profile.PROFILE_CONSTRAINED_BASELINE)


def _without_hidden_candidates(text: str) -> str:
    """Drop candidates that only multicast DNS could resolve, and surplus ones.

    A browser hides its addresses behind .local names. Resolving them takes seconds or fails, and is not needed: the
    server hears from where the browser's checks come (peer-reflexive candidates, RFC 8445 section 7.3.1.3). So it must
    go on listening, and the mark that no more candidates will come is dropped as well.
    """
    kept, candidates = [], 0
    for line in text.splitlines():
        if line.startswith("a=end-of-candidates"):
            continue
        if line.startswith("a=candidate:"):
            fields = line.split()
            candidates += 1
            if (
                candidates > MAX_CANDIDATES
                or len(fields) < 8
                or fields[4].endswith(".local")
                or fields[2].lower() != "udp"
            ):
                continue
        kept.append(line)
    return "\r\n".join(kept) + "\r\n"


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120] or type(error).__name__
