"""Rendering to a file, with an engine that paints flat colours; the file is read back."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from test_provenance import digital_source_type, said

from engine.avatar import Person
from engine.errors import InputError
from engine.picture import Picture
from engine.pose import PoseClip, PoseFrame
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS
from streaming import provenance
from streaming.audio import fitted, read_audio
from streaming.messages import SAMPLE_RATE
from streaming.render import render

SIZE = 64


class Colours:
    """Paints the pose's first number as a grey, `hold` frames late."""

    fps = 25.0
    person: Person = "real"

    def __init__(
        self,
        hold: int = 0,
        fail_at: int = -1,
        error: type[BaseException] = RuntimeError,
    ) -> None:
        self.hold, self.fail_at, self.error = hold, fail_at, error
        self.fed, self.resets, self._held = 0, 0, []  # type: int, int, list[Picture]

    def feed(self, frame: PoseFrame) -> list[Picture]:
        if self.fed == self.fail_at:
            raise self.error
        image = np.full((SIZE, SIZE, 3), (round(frame.pose[0] * 200), 60, 190), np.uint8)
        self._held.append(Picture(self.fed, 0, frame.time_ns, image, image))
        self.fed += 1
        return [self._held.pop(0)] if len(self._held) > self.hold else []

    def flush(self) -> list[Picture]:
        held, self._held = self._held, []
        return held

    def reset(self) -> None:
        self.resets += 1


def clip(frames: int, fps: float = 25.0) -> PoseClip:
    poses = np.zeros((frames, POSE_DIMS), np.float32)
    poses[:, 0] = np.linspace(0, 1, frames)
    return PoseClip(
        fps,
        poses,
        np.zeros((frames, EXPRESSION_DIMS), np.float32),
        np.zeros((frames, 3), np.float32),
    )


def tone(seconds: float, volume: float = 0.3) -> np.ndarray:
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (volume * 32767 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)


@pytest.mark.parametrize("hold", [0, 5])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_every_pose_becomes_a_picture_in_its_place(tmp_path: Path, hold: int, suffix: str) -> None:
    engine, out, said = Colours(hold), tmp_path / f"out{suffix}", []
    render(engine, clip(30), None, out, lambda done, total: said.append((done, total)))
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 25
        frames = list(container.decode(stream))
    greys = [frame.to_ndarray(format="rgb24").reshape(-1, 3).mean(0) for frame in frames]
    wanted = [(round(x * 200), 60, 190) for x in np.linspace(0, 1, 30)]
    np.testing.assert_allclose(greys, wanted, atol=4)
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(30) / 25, atol=1e-3)
    assert said == [(i + 1, 30) for i in range(30)]
    assert engine.resets == 1
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_file_says_that_it_is_generated_and_so_does_its_stream(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"talk{suffix}"
    render(Colours(), clip(10), tone(0.4), out)
    with av.open(str(out), options={"export_xmp": "1"} if suffix != ".mkv" else {}) as container:
        metadata = {key.lower(): value for key, value in container.metadata.items()}
        assert metadata["title"] == "talk (AI-generated)"
        assert metadata["comment"] == provenance.statement("real")
        assert digital_source_type(metadata["xmp"]) == provenance.SOURCE_TYPE
        frames = list(container.decode(video=0))
    assert [said(frame) for frame in frames] == [[provenance.facts("real")] if f.key_frame else [] for f in frames]
    assert frames[0].key_frame and len(frames) == 10


@pytest.mark.parametrize("seconds", [0.5, 2.0, 5.0])
def test_the_sound_is_as_long_as_the_picture(tmp_path: Path, seconds: float) -> None:
    out = tmp_path / "out.mp4"
    render(Colours(), clip(50), tone(seconds), out)
    heard = read_audio(out)
    assert abs(len(heard) - 2 * SAMPLE_RATE) <= 2 * 1024
    spoken = heard[2048 : round(min(seconds, 1.8) * SAMPLE_RATE)].astype(float)
    assert 0.15 < spoken.std() / 32767 < 0.25
    if seconds < 1:
        assert np.abs(heard[round(0.6 * SAMPLE_RATE) :]).max() < 100


def test_a_clip_of_another_rate_keeps_its_length(tmp_path: Path) -> None:
    render(Colours(), clip(121, fps=60.0), None, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 51


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_render_that_does_not_end_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"the old one")
    with pytest.raises(error):
        render(Colours(fail_at=10, error=error), clip(30), tone(1.0), out)
    assert out.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    for out, field in (
        (tmp_path / "out.gif", "file name"),
        (tmp_path / "no" / "out.mp4", "folder"),
    ):
        with pytest.raises(InputError) as caught:
            render(Colours(), clip(3), None, out)
        assert caught.value.field == field
        assert str(out) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_sound_is_cut_or_padded() -> None:
    assert fitted(np.arange(5, dtype=np.int16), 3).tolist() == [0, 1, 2]
    padded = fitted(np.arange(3, dtype=np.int16), 5)
    assert padded.tolist() == [0, 1, 2, 0, 0]
    assert padded.dtype == np.int16


def test_any_rate_and_layout_is_read(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=16_000, layout="stereo")
        t = np.arange(16_000) / 16_000
        wave = np.stack([0.4 * np.sin(2 * np.pi * 300 * t)] * 2).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave.T.reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    samples = read_audio(path)
    assert samples.dtype == np.int16
    assert abs(len(samples) - SAMPLE_RATE) < 100
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    assert abs(np.argmax(spectrum) * SAMPLE_RATE / len(samples) - 300) < 2
    assert 0.25 < samples.std() / 32767 < 0.31


def test_what_is_no_sound_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    render(Colours(), clip(3), None, tmp_path / "silent.mp4")
    for name, got in (
        ("nothing.wav", "no such file"),
        ("text.wav", ""),
        ("silent.mp4", "none"),
    ):
        with pytest.raises(InputError, match=name) as caught:
            read_audio(tmp_path / name)
        assert got in caught.value.got
        assert "\n" not in str(caught.value)


def test_the_speech_of_a_real_clip_is_read(shared: Path) -> None:
    samples = read_audio(shared / "data" / "beat2" / "2_scott_0_1_1.wav")
    assert 62 < len(samples) / SAMPLE_RATE < 65
    assert samples.std() > 100
