"""The command `liveanchor` as a user meets it: help, exit statuses, one-line errors, and what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

import liveanchor
from engine.avatar import bundled_avatar
from engine.clips import write_clip
from engine.pose import PoseClip

ROOT = Path(liveanchor.__file__).parent

needs_avatar = pytest.mark.skipif(
    not (bundled_avatar() / "avatar.toml").exists(), reason="the bundled avatar has not been exported"
)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `liveanchor ARGUMENTS`.

    `serve` sets up the logs of its process, so it gets one of its own.
    """
    if arguments[0] == "serve":
        command = [sys.executable, str(ROOT / "liveanchor.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr
    monkeypatch.setattr(sys, "argv", ["liveanchor", *arguments])
    with pytest.raises(SystemExit) as ending:
        liveanchor.main()
    said = capsys.readouterr()
    return int(ending.value.code or 0), said.out, said.err


def still(path: Path, seconds: float = 0.4) -> Path:
    """A clip of a person who does nothing."""
    frames = round(25 * seconds)
    zeros = [np.zeros((frames, n), np.float32) for n in (165, 100, 3)]
    write_clip(path, PoseClip(25.0, *zeros))
    return path


@pytest.mark.parametrize("command", ["serve", "send", "render", "doctor", "export"])
def test_help_teaches_by_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = run(capsys, monkeypatch, command, "--help")
    assert status == 0
    assert f"liveanchor {command}" in out.partition("Example")[2]


def test_shell_completion_is_offered(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = run(capsys, monkeypatch, "--help")
    assert "--install-completion" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["render", "missing.npz", "-o", "out.mp4"], ["missing.npz", "expected", "got"]),
        (["render", ".", "-o", "out.mp4"], ["log.toml", "no such file"]),
        (["render", "{text}", "-o", "out.mp4"], ["motion.npz", "expected", "got"]),
        (["serve", "--avatar", "nowhere"], ["nowhere", "avatar.toml"]),
        (["serve", "--pose", "missing.bvh"], ["missing.bvh"]),
        (["serve", "--port", "99999"], ["port", "65535", "99999"]),
        (["send", "{clip}", "--to", "http://example"], ["http://example", "ws://", "udp://"]),
        (["send", "{clip}", "--to", "ws://127.0.0.1:9/pose"], ["127.0.0.1:9"]),
    ],
)
def test_bad_input_is_one_line_and_status_1(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "motion.npz"
    text.write_text("not an archive")
    clip = still(tmp_path / "still.npz")
    filled = [a.format(text=text, clip=clip) for a in arguments]
    status, _, err = run(capsys, monkeypatch, *filled)
    last = [line for line in err.splitlines() if line.startswith("liveanchor: ")]
    assert status == 1
    assert len(last) == 1 and "Traceback" not in err
    assert all(word in last[0] for word in words), last[0]
    assert not (tmp_path / "out.mp4").exists()


def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(capsys, monkeypatch, "render", "--no-such-option")[0] == 2
    assert run(capsys, monkeypatch, "send")[0] == 2


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["liveanchor", "--debug", "render", "missing.npz"])
    with pytest.raises(liveanchor.InputError):
        liveanchor.main()


def test_doctor_speaks_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["liveanchor", "doctor", "--json"])
    with pytest.raises(SystemExit):
        liveanchor.main()
    report = json.loads(capsys.readouterr().out)
    names = {f["name"]: f for f in report["findings"]}
    assert {"cpu", "openvino", "onnxruntime", "nvidia", "libx264", "udp"} <= names.keys()
    assert all(f["state"] in ("ok", "note", "missing") and f["means"] for f in report["findings"])
    assert names["libx264"]["state"] == "ok"
    if (bundled_avatar() / "avatar.toml").exists():
        (avatar,) = [f for f in report["findings"] if f["topic"] == "avatar"]
        assert "does not exist" in avatar["found"]


@needs_avatar
def test_render_writes_pictures_and_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "anchor.mp4"
    monkeypatch.setattr(sys, "argv", ["liveanchor", "render", "-o", str(out), "--seconds", "1"])
    with pytest.raises(SystemExit) as ending:
        liveanchor.main()
    assert not ending.value.code
    with av.open(str(out)) as container:
        assert "does not exist" in container.metadata["comment"]
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.width, video.height) == ("h264", 512, 512)
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
        container.seek(0)
        loudest = max(float(np.abs(frame.to_ndarray()).max()) for frame in container.decode(audio))
    assert len(pictures) == 25
    assert np.abs(pictures[0].astype(int) - pictures[-1]).mean() > 0.1  # somebody moves
    assert pictures[0].std() > 20  # and it is not black
    assert loudest > 0.01


@needs_avatar
def test_render_paints_in_every_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same options for all; exact is offline to the byte of the file, and what does not fit is one line."""
    files = {}
    for mode, window, overlap in (("offline", 4, 1), ("exact", 4, 1), ("causal", 4, 1), ("bank", 2, 1)):
        files[mode] = tmp_path / mode / "anchor.mp4"  # a file says its own name
        files[mode].parent.mkdir()
        options = f"--mode {mode} --steps 2 --window {window} --overlap {overlap} --seed 3 --seconds 0.4 --threads 2"
        said = run(capsys, monkeypatch, "render", "-o", str(files[mode]), *options.split())
        assert said[0] == 0, said
    written = {mode: file.read_bytes() for mode, file in files.items()}
    assert written["exact"] == written["offline"]
    assert len(set(written.values())) == 3
    for options, line in (
        ("--mode exact --window 4 --overlap 4", "windows: overlap: expected 0 to 3, as the window is 4, got 4"),
        ("--mode bank --window 5", "a bank of"),
        ("--mode bank --window 5 --overlap 1", "one new frame a time"),
        ("--mode psychic", "'offline', 'exact', 'causal' or 'bank'"),
    ):
        code, _, error = run(capsys, monkeypatch, "render", "-o", str(tmp_path / "no.mp4"), *options.split())
        assert code == 1 and line in error and error.strip().splitlines()[-1].startswith("liveanchor: "), error
    assert run(capsys, monkeypatch, "serve", "--mode", "offline")[0] == 1


def test_public_names_load() -> None:
    for name in liveanchor.__all__:
        assert getattr(liveanchor, name) is not None
    with pytest.raises(AttributeError):
        _ = liveanchor.no_such_name


def test_importing_costs_little() -> None:
    """Public names are lazy: the bare import loads neither numba nor aiortc nor a runtime."""
    code = (
        "import sys, liveanchor; print([m for m in ('numba', 'aiortc', 'openvino', 'av', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
