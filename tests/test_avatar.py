"""Avatars on disk: what is written is read, and what is wrong is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import toml
from engine.avatar import (
    Avatar,
    BodyFields,
    CameraFields,
    DenoiseFields,
    FaceFields,
    LatentFields,
    bundled_avatar,
)
from engine.camera import look_at
from engine.errors import InputError
from engine.steps import spaced


def an_avatar() -> Avatar:
    camera = look_at((0.0, 1.3, 2.5), (0.0, 1.25, 0.0), 512, 0.4)
    return Avatar(
        name="test",
        size=512,
        fps=25.0,
        networks={"hint": "hint.onnx", "body": "body.onnx", "decoder": "decoder.onnx"},
        latent=LatentFields(16, 32),
        denoise=DenoiseFields((999, 499), "sample", context=2),
        camera=CameraFields.of(camera),
        body=BodyFields(betas=(0.5, -1.0)),
        person="real",
        licence='own "words"',
        provenance={
            "frames": 1400,
            "by": "us",
            "stages": {"body": ["a", "b"], "minutes": 2.5},
        },
    )


def a_folder(path: Path, avatar: Avatar) -> Path:
    avatar.write(path)
    for file in avatar.networks.values():
        (path / file).write_bytes(b"graph")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    avatar = an_avatar()
    assert Avatar.load(a_folder(tmp_path, avatar)) == avatar
    assert Avatar.load(tmp_path).folder == tmp_path
    assert "folder" not in (tmp_path / "avatar.toml").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "avatar.toml",
        "body.onnx",
        "decoder.onnx",
        "hint.onnx",
    ]
    camera, back = (
        look_at((0.0, 1.3, 2.5), (0.0, 1.25, 0.0), 512, 0.4),
        avatar.camera.camera(),
    )
    assert np.array_equal(camera.view, back.view)
    assert (camera.fx, camera.cy, camera.width) == (back.fx, back.cy, back.width)


def test_a_file_that_does_not_say_whom_it_shows_is_not_taken_for_one_that_does(tmp_path: Path) -> None:
    file = a_folder(tmp_path, an_avatar()) / "avatar.toml"
    assert Avatar.load(tmp_path).person == "real"
    file.write_text(file.read_text().replace('person = "real"\n', ""))
    assert Avatar.load(tmp_path).person == "unknown"
    assert Avatar.load(bundled_avatar()).person == "synthetic"


@pytest.mark.parametrize(
    ("find", "put", "field", "expected"),
    [
        ('person = "real"', 'person = "fake"', "person", "'synthetic', 'real', 'unknown'"),
        ('person = "real"', "person = true", "person", "'synthetic', 'real', 'unknown'"),
        ("fps = 25.0", "fps = 0", "fps", "1 to 120"),
        ("fps = 25.0", 'fps = "25"', "fps", "a number"),
        ("fps = 25.0", "speed = 25", "speed", "one of"),
        ("fps = 25.0", "", "fps", "a number"),
        ("size = 512\nfps", "size = 500\nfps", "size", "multiple of 16"),
        ("size = 512\nfps", "size = true\nfps", "size", "a whole number"),
        (
            "timesteps = [999, 499]",
            "timesteps = [499, 999]",
            "denoise.timesteps",
            "falling",
        ),
        (
            "timesteps = [999, 499]",
            "timesteps = [1000]",
            "denoise.timesteps",
            "999 to 0",
        ),
        (
            "timesteps = [999, 499]",
            "timesteps = [9.5]",
            "denoise.timesteps[0]",
            "a whole number",
        ),
        (
            'prediction = "sample"',
            'prediction = "x0"',
            "denoise.prediction",
            "'epsilon', 'v', 'sample'",
        ),
        (
            'prediction = "sample"',
            'predict = "sample"',
            "denoise.predict",
            "one of timesteps",
        ),
        (
            'body = "body.onnx"',
            'body = "other.onnx"',
            "networks.body",
            "a file other.onnx",
        ),
        ('body = "body.onnx"', "", "networks.body", "a graph"),
        (
            "channels = 16\nsize = 32",
            "channels = 16\nsize = 31",
            "latent.size",
            "a divisor",
        ),
        ('mode = "causal"', 'mode = "bank"', "networks.body_bank", "a graph"),
        ('mode = "causal"', 'mode = "exact"', "networks.body_windows", "a graph"),
        ('mode = "causal"', 'mode = "offline"', "denoise.mode", "exact, causal or bank"),
        ('mode = "causal"', 'mode = "psychic"', "denoise.mode", "'offline', 'exact', 'causal', 'bank'"),
        ("enabled = false", "enabled = true", "networks.face", "a graph"),
        (
            'file = "standin"',
            'file = "SMPLX_NEUTRAL.npz"',
            "body.file",
            "a file SMPLX_NEUTRAL.npz",
        ),
        ("fps = 25.0", "fps = [", "syntax", "TOML"),
        ('template = "ffhq"', 'template = "arcface"', "face.template", "'ffhq'"),
        ("[camera]\nsize = 512", "[camera]\nsize = 256", "camera.size", "512"),
        ("[[1.0,", "[[2.0,", "camera.view", "a rotation"),
        ("[[1.0,", "[[1.0, 1.0,", "camera.view", "4 rows of 4"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, find: str, put: str, field: str, expected: str) -> None:
    folder = a_folder(tmp_path, an_avatar())
    text = (folder / "avatar.toml").read_text()
    assert text.count(find) >= 1
    (folder / "avatar.toml").write_text(text.replace(find, put, 1))
    with pytest.raises(InputError) as caught:
        Avatar.load(folder)
    assert caught.value.field == field
    assert expected in caught.value.expected
    assert "avatar.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"nowhere.*avatar\.toml: file: expected a TOML file, got no such file",
    ):
        Avatar.load(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    avatar = an_avatar()
    folder = a_folder(tmp_path, avatar)
    with pytest.raises(TypeError):
        replace(avatar, provenance={"what": object()}).write(folder)
    assert Avatar.load(folder) == avatar
    assert not list(folder.glob(".*"))


def test_steps_are_its_own_or_spread_over_the_schedule() -> None:
    avatar = an_avatar()
    assert avatar.with_steps(None) is avatar
    assert avatar.with_steps(2) is avatar
    assert avatar.with_steps(4).denoise.timesteps == (999, 759, 499, 259)  # it begins where it began
    published = replace(avatar, denoise=replace(avatar.denoise, timesteps=spaced(avatar.schedule, 20).now))
    assert published.with_steps(4).denoise.timesteps == spaced(avatar.schedule, 4).now
    distilled = replace(avatar, denoise=replace(avatar.denoise, timesteps=(899,), sampler="lcm"))
    assert distilled.with_steps(4).denoise.timesteps == (999, 759, 499, 259)


def test_windows_are_its_own_or_share_a_quarter() -> None:
    avatar = replace(an_avatar(), denoise=replace(an_avatar().denoise, window=6, overlap=2))

    def window(size: int | None, overlap: int | None) -> tuple[int, int]:
        fields = avatar.with_window(size, overlap).denoise
        return fields.window, fields.overlap

    assert [window(None, None), window(16, None), window(None, 3), window(8, 5)] == [(6, 2), (16, 4), (6, 3), (8, 5)]
    with pytest.raises(InputError, match="windows: overlap: expected 0 to 5, as the window is 6, got 6"):
        avatar.with_window(None, 6)


def test_a_face_has_graphs_of_its_own(tmp_path: Path) -> None:
    networks = {name: f"{name}.onnx" for name in ("body", "decoder", "face", "face_decoder")}
    avatar = replace(an_avatar(), networks=networks, face=FaceFields(enabled=True))
    assert Avatar.load(a_folder(tmp_path, avatar)).face.enabled


def test_a_bank_has_room_and_crops_have_none(tmp_path: Path) -> None:
    networks = {name: f"{name}.onnx" for name in ("body", "body_bank", "decoder", "face", "face_decoder")}
    live = DenoiseFields((999,), "sample", mode="bank", context=2, anchor=True)
    avatar = replace(an_avatar(), networks=networks, denoise=live)
    assert Avatar.load(a_folder(tmp_path, avatar)).denoise == live
    assert avatar.with_mode("causal").denoise == replace(live, mode="causal")
    assert avatar.with_mode(None) is avatar
    with pytest.raises(InputError, match=r"denoise\.context: expected more than 1, as denoise\.mode is bank, got 1"):
        Avatar.load(a_folder(tmp_path, replace(avatar, denoise=replace(live, context=1))))
    with pytest.raises(InputError, match=r"face\.denoise\.mode: expected causal without context"):
        Avatar.load(a_folder(tmp_path, replace(avatar, face=FaceFields(enabled=True, denoise=live))))


_scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
_keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
_tables = st.recursive(
    st.dictionaries(_keys, _scalars | st.lists(_scalars, max_size=3), max_size=3),
    lambda inner: st.dictionaries(_keys, inner | st.lists(inner, max_size=2), max_size=3),
    max_leaves=5,
)


@given(_tables)
def test_any_table_survives_its_toml(table: dict[str, object]) -> None:
    import tomllib

    assert tomllib.loads(toml.dumps(table)) == table
