"""WHEP: offers, sessions, tracks, and the one clock of sound and pictures. The viewer is aiortc, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from itertools import pairwise
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest
from aiohttp.test_utils import TestServer
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from fake_show import FakeShow
from hypothesis import given
from hypothesis import strategies as st
from test_provenance import said

from engine.errors import InputError
from streaming import provenance
from streaming.clock import FakeClock
from streaming.metrics import Meter
from streaming.server import build_app
from streaming.settings import Settings
from streaming.sources.websocket import PoseSockets
from streaming.webrtc import whep
from streaming.webrtc.encoder import AUDIO_CLOCK, OPUS_SAMPLES, VIDEO_CLOCK, SoundEncoder, VideoEncoder
from streaming.webrtc.offer import UnsupportedError, read_offer
from streaming.webrtc.tracks import BACKLOG, PacketTrack, rtp_time
from streaming.webrtc.transmitter import SOUND_TICK_NS, Rates, Transmitter

SDP = {"Content-Type": "application/sdp"}


@contextlib.asynccontextmanager
async def served(show: FakeShow | None = None, **settings: object) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A server with a fake show, and a client."""
    server = TestServer(build_app(show or FakeShow(), Settings(**settings)))
    await server.start_server()
    try:
        async with aiohttp.ClientSession() as client:
            yield client, str(server.make_url("")).rstrip("/")
    finally:
        await server.close()


async def make_viewer(kinds: str = "vva", codec: str | None = None) -> RTCPeerConnection:
    """A peer that has offered to receive: one letter for each section, v or a; d is a data channel for poses."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    for kind in kinds:
        if kind == "d":
            pc.createDataChannel("pose", ordered=False, maxRetransmits=0)
            continue
        transceiver = pc.addTransceiver({"v": "video", "a": "audio"}[kind], "recvonly")
        if kind == "v" and codec:
            capabilities = RTCRtpReceiver.getCapabilities("video").codecs
            transceiver.setCodecPreferences([c for c in capabilities if c.mimeType in (f"video/{codec}", "video/rtx")])
    await pc.setLocalDescription(await pc.createOffer())
    return pc


async def watch(client: aiohttp.ClientSession, url: str, pc: RTCPeerConnection) -> str:
    """Join with `pc` and return the session's address."""
    async with client.post(f"{url}/whep", data=pc.localDescription.sdp, headers=SDP) as response:
        answer = await response.text()
        assert response.status == 201, answer
        assert response.headers["Content-Type"] == "application/sdp"
        assert response.headers["ETag"]
        location = response.headers["Location"]
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    return url + location


async def viewers(client: aiohttp.ClientSession, url: str) -> int:
    async with client.get(f"{url}/stats") as response:
        return int((await response.json())["viewers"])


def offer_text(kinds: str = "vva", codec: str | None = None) -> str:
    async def make() -> str:
        pc = await make_viewer(kinds, codec)
        text = pc.localDescription.sdp
        await pc.close()
        return text

    return asyncio.run(make())


# -- a viewer


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_a_viewer_sees_picture_and_condition_and_hears_sound(codec: str) -> None:
    async def scenario() -> None:
        async with served() as (client, url):
            pc = await make_viewer("vva", codec)
            session = await watch(client, url, pc)
            picture, condition, sound = [t.receiver.track for t in pc.getTransceivers()]
            first = await asyncio.wait_for(picture.recv(), 10)
            assert said(first) == (
                [provenance.facts("synthetic")] if codec == "H264" else []
            )  # VP8 has no place for it
            frames = [await asyncio.wait_for(picture.recv(), 5) for _ in range(10)]
            assert (first.width, first.height) == (512, 512)
            steps = [b.pts - a.pts for a, b in pairwise(frames)]
            assert min(steps) == 3600 and all(
                step % 3600 == 0 for step in steps
            )  # 25 a second at 90 kHz, some may be missed
            assert not np.array_equal(frames[0].to_ndarray(), frames[9].to_ndarray())
            small = await asyncio.wait_for(condition.recv(), 5)
            assert (small.width, small.height) == (256, 256)
            assert said(small) == []
            heard = [await asyncio.wait_for(sound.recv(), 5) for _ in range(30)]
            assert {b.pts - a.pts for a, b in pairwise(heard)} == {OPUS_SAMPLES}
            assert max(int(np.abs(f.to_ndarray()).max()) for f in heard) > 1000
            async with client.get(f"{url}/stats") as response:
                stats = await response.json()
            assert stats["viewers"] == 1 and stats["state"] == "live"
            assert stats["delay_ms"]["p50"] >= 120  # the fake show's pictures are that old
            async with client.delete(session) as response:
                assert response.status == 200
            assert await viewers(client, url) == 0
            async with client.delete(session) as response:
                assert response.status == 404
            await pc.close()

    asyncio.run(scenario())


def test_the_answer_says_what_it_is() -> None:
    async def scenario() -> tuple[str, list[str]]:
        async with served(ice_servers=("stun:stun.example:3478",)) as (client, url):
            pc = await make_viewer()
            async with client.post(f"{url}/whep", data=pc.localDescription.sdp, headers=SDP) as response:
                answer, links = await response.text(), response.headers.getall("Link")
            await pc.close()
            return answer, links

    answer, links = asyncio.run(scenario())
    lines = answer.split("\r\n")
    assert lines[2].startswith("s=") and lines[3] == f"i={provenance.statement('synthetic')}"
    assert lines[4][:2] in ("c=", "t=")  # the order of RFC 8866 section 9
    assert links == [f'<{provenance.SOURCE_TYPE}>; rel="type"', '<stun:stun.example:3478>; rel="ice-server"']


def test_a_viewer_sends_poses_over_a_data_channel() -> None:
    async def main() -> None:
        heard: list[bytes] = []

        def feed(data: bytes | bytearray | memoryview | str) -> bool:
            assert not isinstance(data, str)
            heard.append(bytes(data))
            return True

        server = TestServer(build_app(FakeShow(), Settings(), on_pose=PoseSockets(feed)))
        await server.start_server()
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        try:
            pc.addTransceiver("video", "recvonly")
            channel = pc.createDataChannel("pose", ordered=False, maxRetransmits=0)
            opened = asyncio.Event()
            channel.on("open", opened.set)
            await pc.setLocalDescription(await pc.createOffer())
            async with aiohttp.ClientSession() as client:
                await watch(client, str(server.make_url("")).rstrip("/"), pc)
                await asyncio.wait_for(opened.wait(), 20)
                channel.send(b"one pose message")
                async with asyncio.timeout(10):
                    while not heard:
                        await asyncio.sleep(0.02)
        finally:
            await pc.close()
            await server.close()
        assert heard == [b"one pose message"]

    asyncio.run(main())


def test_the_codec_that_is_answered() -> None:
    async def chosen(codec: str | None) -> str:
        async with served() as (client, url):
            pc = await make_viewer("va", codec)
            await watch(client, url, pc)
            name = pc.getTransceivers()[0]._codecs[0].name
            await pc.close()
            return name

    assert asyncio.run(chosen(None)) == "H264"  # aiortc itself would have answered with its own first, VP8
    assert asyncio.run(chosen("VP8")) == "VP8"


def test_one_encoder_serves_many_viewers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(
        "streaming.webrtc.transmitter.VideoEncoder", lambda *args: made.append(args) or VideoEncoder(*args)
    )

    async def scenario() -> None:
        async with served() as (client, url):
            peers = [await make_viewer("v") for _ in range(3)]
            for pc in peers:
                await watch(client, url, pc)
            for pc in peers:
                await asyncio.wait_for(pc.getTransceivers()[0].receiver.track.recv(), 10)
            await asyncio.gather(*(pc.close() for pc in peers))

    asyncio.run(scenario())
    assert len(made) == 1


def test_a_viewer_who_vanishes_is_cleaned_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whep, "SILENCE_S", 2.0)
    monkeypatch.setattr(whep, "CHECK_S", 0.1)

    async def scenario() -> None:
        async with served() as (client, url):
            pc = await make_viewer()
            await watch(client, url, pc)
            await asyncio.wait_for(pc.getTransceivers()[0].receiver.track.recv(), 10)
            ice = pc.getTransceivers()[0].receiver.transport.transport._connection
            for protocol in ice._protocols:  # the plug is pulled: no DELETE, no DTLS alert
                protocol.transport.abort()
            for _ in range(100):
                await asyncio.sleep(0.1)
                if await viewers(client, url) == 0:
                    break
            else:
                raise AssertionError("still counted as a viewer after ten seconds")
            await pc.close()

    asyncio.run(scenario())


def test_a_viewer_who_never_connects_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whep, "CONNECT_S", 0.3)
    monkeypatch.setattr(whep, "CHECK_S", 0.05)

    async def scenario() -> None:
        async with served() as (client, url):
            pc = await make_viewer()
            async with client.post(f"{url}/whep", data=pc.localDescription.sdp, headers=SDP) as response:
                assert response.status == 201  # and the answer is never used
            assert await viewers(client, url) == 1
            await asyncio.sleep(1)
            assert await viewers(client, url) == 0
            await pc.close()

    asyncio.run(scenario())


# -- refusals


def test_refusals() -> None:
    async def scenario() -> None:
        async with served(max_viewers=1) as (client, url):

            async def post(data: str | bytes, headers: dict[str, str] = SDP) -> tuple[int, str, dict[str, str]]:
                async with client.post(f"{url}/whep", data=data, headers=headers) as response:
                    return response.status, await response.text(), dict(response.headers)

            status, line, headers = await post("v=0", {"Content-Type": "application/json"})
            assert (status, headers["Accept-Post"]) == (415, "application/sdp") and line.count("\n") == 1
            assert (await post(""))[0] == 400
            assert (await post(b"\xff\xfe"))[0] == 400
            assert (await post("v=0" + "x" * 70_000))[0] == 413
            status, line, _ = await post("hello")
            assert status == 400 and line == "offer: first line: expected v=0, got 'hello'\n"
            for method, path in (
                ("GET", "/whep"),
                ("PUT", "/whep"),
                ("PATCH", "/whep"),
                ("GET", "/whep/x"),
                ("POST", "/whep/x"),
            ):
                async with client.request(method, url + path) as response:
                    assert response.status == 405, (method, path)
            for method in ("DELETE", "PATCH"):
                async with client.request(method, f"{url}/whep/nobody") as response:
                    assert response.status == 404
            async with client.options(f"{url}/whep") as response:
                assert (response.status, response.headers["Accept-Post"]) == (204, "application/sdp")

            pc = await make_viewer("v")
            session = await watch(client, url, pc)
            async with client.patch(
                session, data="a=x", headers={"Content-Type": "application/trickle-ice-sdpfrag"}
            ) as response:
                assert (response.status, response.headers["Allow"]) == (405, "DELETE, OPTIONS")
            status, line, headers = await post(pc.localDescription.sdp)
            assert (status, line) == (503, "all 1 places are taken\n") and int(headers["Retry-After"]) > 0
            async with client.delete(session):
                pass
            again = await make_viewer("v")
            await watch(client, url, again)
            await asyncio.gather(pc.close(), again.close())

    asyncio.run(scenario())


def test_what_an_offer_may_ask_for() -> None:
    text = offer_text("vva")
    offer = read_offer(text)
    assert [(s.role, s.codec) for s in offer.sections] == [
        ("picture", "h264"),
        ("condition", "h264"),
        ("sound", "opus"),
    ]
    assert [s.role for s in read_offer(offer_text("av")).sections] == ["sound", "picture"]
    assert [s.codec for s in read_offer(offer_text("v", "VP8")).sections] == ["vp8"]

    assert [s.role for s in read_offer(offer_text("vd")).sections] == ["picture", "poses"]

    with pytest.raises(UnsupportedError, match="only data channels"):
        read_offer(offer_text("d"))
    with pytest.raises(UnsupportedError, match="a third one"):
        read_offer(offer_text("vvv"))
    with pytest.raises(UnsupportedError, match="a second one"):
        read_offer(offer_text("vaa"))
    with pytest.raises(UnsupportedError, match=r"expected a=recvonly, got a=sendonly"):
        read_offer(text.replace("a=recvonly", "a=sendonly"))
    with pytest.raises(UnsupportedError, match=r"H\.264 baseline or VP8, got vp9"):
        read_offer(offer_text("v", "VP8").replace("VP8/", "VP9/"))
    with pytest.raises(UnsupportedError, match="BUNDLE"):
        read_offer(text.replace("a=group:BUNDLE 0 1 2", "a=x"))
    with pytest.raises(InputError, match="ice-pwd"):
        read_offer("\r\n".join(line for line in text.splitlines() if "ice-pwd" not in line))
    with pytest.raises(InputError, match="fingerprint"):
        read_offer("\r\n".join(line for line in text.splitlines() if "fingerprint" not in line))


def test_hidden_candidates_are_not_waited_for() -> None:
    hidden = "a=candidate:1 1 udp 2113937151 9b0a2f3e-58ac-4f0e-a3de-1de9f4a3d8f1.local 54400 typ host"
    lines = offer_text("v").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("a=candidate"))
    text = "\r\n".join([*lines[:at], *[hidden] * 3, *lines[at:]])
    kept = read_offer(text).text
    assert ".local" not in kept and "a=candidate" in kept and "end-of-candidates" not in kept


def mutate(text: str, rng: random.Random) -> str:
    """An offer with a few things broken."""
    lines = text.splitlines()
    for _ in range(rng.randint(1, 5)):
        i = rng.randrange(len(lines))
        line = lines[i]
        match rng.randrange(7):
            case 0:
                del lines[i : i + rng.randint(1, 4)]
            case 1:
                lines.insert(rng.randrange(len(lines)), line)
            case 2:
                lines[i] = line[: rng.randint(0, len(line))]
            case 3:
                digits = [k for k, c in enumerate(line) if c.isdigit()] or [0]
                k = rng.choice(digits)
                lines[i] = line[:k] + rng.choice(["-1", "99999999999999999999", "x", "", "\u0663"]) + line[k + 1 :]
            case 4:
                j = rng.randrange(len(lines))
                lines[i], lines[j] = lines[j], line
            case 5:
                lines[i] = line.replace(":", rng.choice(["", "::", ": ", "\x00"]), 1)
            case _:
                lines.insert(
                    i,
                    rng.choice(
                        ["a=setup:passive", "a=mid:0", "m=video 0 X 1", "a=rtpmap:", "a=ssrc:1", "a=inactive", "="]
                    ),
                )
        lines = lines or ["v=0"]
    return rng.choice(["\r\n", "\n"]).join(lines)


def test_no_offer_breaks_the_server() -> None:
    """Broken offers are refused or answered, never a fault, and leave nothing behind."""
    rng = random.Random(20)
    texts = [offer_text("vva"), offer_text("av", "VP8")]
    seen: set[int] = set()

    async def scenario() -> None:
        async with served(max_viewers=1000) as (client, url):
            for _ in range(200):
                async with client.post(f"{url}/whep", data=mutate(rng.choice(texts), rng), headers=SDP) as response:
                    line = await response.text()
                    seen.add(response.status)
                    assert response.status in (201, 400, 422), line
                if response.status == 201:
                    async with client.delete(url + response.headers["Location"]) as deleted:
                        assert deleted.status == 200
                else:
                    assert line.count("\n") == 1 and len(line) < 500
            assert await viewers(client, url) == 0

    asyncio.run(scenario())
    assert seen == {201, 400, 422}


OFFER = offer_text("vva")


@given(st.integers(0, 2**32))
def test_the_offer_reader_raises_nothing_but_input_errors(seed: int) -> None:
    with contextlib.suppress(InputError):
        read_offer(mutate(OFFER, random.Random(seed)))


@given(st.text(max_size=300))
def test_the_offer_reader_survives_any_text(text: str) -> None:
    for body in (text, "v=0\r\n" + text):
        with contextlib.suppress(InputError):
            read_offer(body)


# -- one clock


@given(st.integers(0, 10**18))
def test_sound_and_picture_times_agree_at_any_time(play_ns: int) -> None:
    video, audio = rtp_time(play_ns, VIDEO_CLOCK) / VIDEO_CLOCK, rtp_time(play_ns, AUDIO_CLOCK) / AUDIO_CLOCK
    assert (
        abs(rtp_time(play_ns, VIDEO_CLOCK) * AUDIO_CLOCK - rtp_time(play_ns, AUDIO_CLOCK) * VIDEO_CLOCK)
        < VIDEO_CLOCK + AUDIO_CLOCK
    )
    assert abs(video - audio) < 1e-4


def test_tracks_take_their_times_from_one_clock() -> None:
    """Sixty virtual hours after the start, sound and pictures asked for at one time carry one time."""

    async def scenario() -> None:
        clock = FakeClock(60 * 3600 * 10**9 + 12_345_678)
        transmitter = Transmitter(FakeShow(), Meter(clock=clock), Rates(picture_size=128, condition_size=64), clock)
        picture, sound = transmitter.video("picture", "h264"), transmitter.sound()
        start = clock.now_ns()
        for tick in range(50):
            play_ns = start + tick * 40_000_000
            transmitter.tick_pictures(play_ns)
            await transmitter.tick_sound(play_ns)
            await transmitter.tick_sound(play_ns + SOUND_TICK_NS)
            video = await asyncio.wait_for(picture.recv(), 5)
            first, second = [await asyncio.wait_for(sound.recv(), 5) for _ in range(2)]
            assert video.pts == rtp_time(play_ns, VIDEO_CLOCK)
            assert abs(video.pts / VIDEO_CLOCK - first.pts / AUDIO_CLOCK) < 1 / AUDIO_CLOCK
            assert second.pts - first.pts == OPUS_SAMPLES
        await transmitter.stop()

    asyncio.run(scenario())


class HeldUp(Transmitter):
    """A transmitter whose event loop wakes late, by what `lateness` says, on a clock of its own."""

    def __init__(self, clock: FakeClock, lateness: list[int]) -> None:
        self.clock, self.lateness = clock, lateness
        self.pictures: list[int] = []
        self.sounds: list[int] = []
        super().__init__(FakeShow(), Meter(clock=clock), clock=clock)

    def tick_pictures(self, play_ns: int) -> None:
        self.pictures.append(play_ns)

    async def tick_sound(self, play_ns: int) -> None:
        self.sounds.append(play_ns)

    async def _sleep_until(self, due_ns: int) -> None:
        if not self.lateness:
            raise asyncio.CancelledError
        self.clock.time_ns = max(self.clock.time_ns, due_ns + self.lateness.pop())
        await asyncio.sleep(0)


@given(st.lists(st.sampled_from([0, 3_000_000, 25_000_000, 90_000_000, 700_000_000]), min_size=2, max_size=60))
def test_a_late_loop_skips_pictures_and_never_bends_time(lateness: list[int]) -> None:
    for pump in ("_pump_pictures", "_pump_sound"):
        transmitter = HeldUp(FakeClock(), list(lateness))
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(getattr(transmitter, pump)(0))
        times, step = (transmitter.pictures, 40_000_000) if "pictures" in pump else (transmitter.sounds, SOUND_TICK_NS)
        gaps = [b - a for a, b in pairwise(times)]
        assert all(gap > 0 and gap % step == 0 for gap in gaps)  # forward, on the grid
        assert times[-1] > transmitter.clock.time_ns - 240_000_000 - max(lateness)
        if pump == "_pump_sound" and max(lateness) <= 90_000_000:
            assert set(gaps) <= {step}  # a little lateness costs no sound


# -- encoders and tracks


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_video_encoder(codec: str) -> None:
    encoder = VideoEncoder(codec, 512, 512, 25, 2_500_000)  # type: ignore[arg-type]
    show = FakeShow()
    coded = [encoder.encode(show.take(0).picture.image, pts, keyframe=pts == 60) for pts in range(100)]
    assert all(c is not None for c in coded)
    assert [c.pts for c in coded if c.keyframe] == [0, 60]
    assert sum(len(c.data) for c in coded) * 8 / 4 < 2_500_000 * 1.2  # bits a second, over four seconds


def test_sound_encoder_keeps_the_pitch() -> None:
    import av

    encoder, decoder = SoundEncoder(), av.CodecContext.create("libopus", "r")
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000)).astype(np.int16)
    heard = []
    for pts in range(0, 48_000, OPUS_SAMPLES):
        coded = encoder.encode(tone[pts : pts + OPUS_SAMPLES], pts)
        assert coded is not None and coded.pts == pts
        heard += [f.to_ndarray()[0] for f in decoder.decode(av.Packet(coded.data))]
    wave = np.concatenate(heard)[4800:].astype(float)
    wave = wave if wave.ndim == 1 else wave[:, 0]
    channels = 2 if len(wave) > 48_000 else 1
    peak = np.argmax(np.abs(np.fft.rfft(wave[::channels]))) * 48_000 / len(wave[::channels])
    assert abs(peak - 440) < 3


def test_a_slow_viewer_loses_its_backlog_and_resumes_at_a_keyframe() -> None:
    async def scenario() -> None:
        asked = []
        track = PacketTrack("video", VIDEO_CLOCK, lambda track: None, lambda: asked.append(1))

        def packet(pts: int, keyframe: bool = False) -> SimpleNamespace:
            return SimpleNamespace(data=b"x", pts=pts, keyframe=keyframe)

        track.put(packet(0))
        assert track.dropped == 1 and asked  # nobody can begin in the middle
        track.put(packet(1, keyframe=True))
        for pts in range(2, 2 + BACKLOG):
            track.put(packet(pts))
        assert track.dropped == 1 + BACKLOG + 1
        track.put(packet(100, keyframe=True))
        assert (await track.recv()).pts == 100
        track.stop()

    asyncio.run(scenario())
