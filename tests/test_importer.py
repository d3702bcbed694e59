"""Checkpoints of Make-Your-Anchor as avatars: what is written, what is refused, and that nothing half-written stays."""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mya_tree import SMALL, Tree, write_tree, write_weights
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPVisionModel

import liveanchor
from engine import toml
from engine.avatar import Avatar
from engine.body import BodyModel
from engine.clips import read_clip
from engine.denoise import Exact, offline
from engine.errors import InputError
from engine.importing import make_your_anchor
from engine.importing.base import read_image_encoder
from engine.importing.make_your_anchor import Origin, clip_picture, import_avatar
from engine.networks import folder as stored
from engine.networks.diffusion import CLIP_MEAN, CLIP_STD, appearance_tokens
from engine.pose import PoseFrame
from engine.sampler import Sampler
from engine.staging import Staging
from engine.standin import standin_path
from engine.steps import Schedule, spaced
from engine.windows import windows

SAFE, BIN = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Read-only: copy what you change."""
    return write_tree(tmp_path_factory.mktemp("mya"))


@pytest.fixture(scope="module")
def imported(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "avatar"
    import_avatar(origin(tree), out, lambda line: None)
    return out


@pytest.fixture
def copied(tree: Tree, tmp_path: Path) -> Tree:
    shutil.copytree(tree.base.parent, tmp_path / "mya")
    return Tree(*(tmp_path / "mya" / path.name for path in vars(tree).values()))


def origin(of: Tree, **changes: object) -> Origin:
    made = Origin(of.source, of.base, of.image_encoder, of.body_picture, of.head_picture, camera=(0.0, -0.1, 8.0))
    return replace(made, **changes)  # type: ignore[arg-type]


def weights_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.safetensors"))}


def test_the_avatar_says_what_the_authors_scripts_do(imported: Path) -> None:
    avatar = toml.read(imported / "avatar.toml", Avatar)
    assert (avatar.name, avatar.size, avatar.condition.style, avatar.fps) == ("seth", 128, "authors", 30.0)
    assert (avatar.latent.channels, avatar.latent.size, avatar.latent.scale) == (4, 16, 0.18215)
    d, f = avatar.denoise, avatar.face
    assert d.timesteps == f.denoise.timesteps == tuple(range(951, 0, -50))
    assert (d.prediction, d.sampler, d.guidance, d.control_scale) == ("epsilon", "ddim", 7.5, 2.0)
    assert (d.window, d.overlap, d.normalisation, d.noise) == (16, 4, "window", "shared")
    assert (f.enabled, f.size, f.latent.size, f.denoise.guidance, f.denoise.control_scale) == (True, 64, 8, 3.5, 1.0)
    assert (f.denoise.normalisation, f.denoise.noise) == ("frame", "shared")
    assert not avatar.schedule.set_alpha_to_one
    assert avatar.schedule.steps_offset == 1
    assert avatar.camera.fx == pytest.approx(5000 / 720 * 128)
    assert avatar.camera.view[1][3] == pytest.approx(-0.1)
    assert avatar.body.file == "standin"


def test_every_weight_is_there_once_in_half_precision(tree: Tree, imported: Path) -> None:
    for part in ("body/unet", "body/controlnet", "head/unet", "head/controlnet"):
        there, here = load_file(tree.source / part / SAFE), load_file(imported / part / SAFE)
        assert there.keys() == here.keys()
        assert all(torch.equal(here[key], there[key].half()) for key in there)
        for field, value in json.loads((tree.source / part / "config.json").read_text()).items():
            assert json.loads((imported / part / "config.json").read_text())[field] == value
    assert set(weights_of(imported)) == {
        *(f"{half}/{kind}/{SAFE}" for half in ("body", "head") for kind in ("unet", "controlnet")),
        f"vae/{SAFE}", "image_encoder/model.safetensors",
    }  # fmt: skip
    assert not [file for file in imported.parent.rglob("*") if file.name.startswith(".")]
    for file in (*imported.rglob("*.json"), imported / "avatar.toml"):
        assert str(tree.base.parent) not in file.read_text()


def test_the_networks_load_and_compute(imported: Path) -> None:
    networks = stored.load(imported)
    assert networks.head is not None
    assert networks.head_decoder is None
    assert (networks.head.unet.config.in_channels, networks.head.controlnet.config.in_channels) == (9, 4)
    sample = torch.randn(1, 9, 8, 8)
    given = (sample, torch.tensor([500]), torch.rand(1, 3, 64, 64), torch.randn(1, 5, 32))
    with torch.no_grad():
        said = networks.head(*given)
        networks.head.control_scale = 0.0
        assert not torch.allclose(said, networks.head(*given))  # the ControlNet has its say
    assert said.shape == (1, 4, 8, 8)
    assert torch.isfinite(said).all()


def test_bin_files_give_the_same_avatar(tree: Tree, copied: Tree, imported: Path, tmp_path: Path) -> None:
    for zipped, file in zip((True, False, True, False), sorted(copied.source.rglob(SAFE)), strict=True):
        torch.save(load_file(file), file.with_name(BIN), _use_new_zipfile_serialization=zipped)
        file.unlink()
    vae = copied.base / "vae" / SAFE
    torch.save(load_file(vae), vae.with_name(BIN))
    vae.unlink()
    import_avatar(origin(copied), tmp_path / "out", lambda line: None)
    assert weights_of(tmp_path / "out") == weights_of(imported)


def test_nobody_is_the_embedding_of_the_empty_prompt(tree: Tree, imported: Path) -> None:
    tokens = np.load(imported / "appearance" / "unconditional.npy")
    encoder = CLIPTextModel.from_pretrained(tree.base / "text_encoder").eval()
    with torch.no_grad():
        said = encoder(torch.tensor([[0, 1, 1, 1, 1]]))[0]  # start, end, and the end again as padding
    assert tokens.shape == (1, 5, 32)
    np.testing.assert_allclose(tokens, said.numpy(), atol=1e-6)


@pytest.mark.parametrize("shape", [(96, 80), (64, 64), (50, 121)])
def test_reference_pictures_are_cut_as_clip_cuts_them(tmp_path: Path, shape: tuple[int, int]) -> None:
    import transformers

    processor = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "person.png")
    ours = clip_picture(tmp_path / "person.png", 32).astype(np.float32) / 255
    ours = (ours - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    theirs = processor(**sizes)(images=Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(ours.transpose(2, 0, 1), theirs, atol=1e-4)


def test_the_image_encoder_may_lie_in_the_whole_of_clip(tree: Tree, tmp_path: Path) -> None:
    """As the files of ViT-B/32 do, under the names of earlier transformers, with a buffer that later ones dropped."""
    alone = CLIPVisionModel.from_pretrained(tree.image_encoder).eval()
    whole = CLIPModel(CLIPConfig(text_config=SMALL.text, vision_config=SMALL.vision, projection_dim=16))
    whole.save_pretrained(tmp_path / "clip")
    file = tmp_path / "clip" / "model.safetensors"
    weights = {key: value for key, value in load_file(file).items() if not key.startswith("vision_model.")}
    own = {key.removeprefix("vision_model."): value for key, value in alone.state_dict().items()}
    weights |= {f"vision_model.{key}": value for key, value in own.items()}
    weights["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    write_weights(weights, tmp_path / "clip").replace(file)
    picture = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        said, wanted = (appearance_tokens(e, picture) for e in (read_image_encoder(tmp_path / "clip"), alone))
    torch.testing.assert_close(said, wanted)


def test_the_autoencoder_may_have_its_attention_under_earlier_names(
    copied: Tree, imported: Path, tmp_path: Path
) -> None:
    """Stable Diffusion 1.5's own files do."""
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    file = copied.base / "vae" / SAFE
    weights = load_file(file)
    for key in [k for k in weights if "attentions" in k]:
        renamed = key
        for now, then in earlier.items():
            renamed = renamed.replace(f".{now}.", f".{then}.")
        weights[renamed] = weights.pop(key)
    assert any(".proj_attn." in key for key in weights)
    write_weights(weights, file.parent)
    import_avatar(origin(copied), tmp_path / "out", lambda line: None)
    vae = f"vae/{SAFE}"
    assert weights_of(tmp_path / "out")[vae] == weights_of(imported)[vae]


def test_without_a_head_there_is_no_face_pass_and_one_line_says_so(copied: Tree, tmp_path: Path) -> None:
    shutil.rmtree(copied.source / "head")
    lines: list[str] = []
    avatar = import_avatar(origin(copied, head_reference=None), tmp_path / "out", lines.append)
    assert not avatar.face.enabled
    assert [line for line in lines if "no head" in line] == lines[:1]
    assert "face" not in avatar.networks
    assert stored.load(tmp_path / "out").head is None


def test_a_fit_says_where_the_person_stands(tree: Tree, tmp_path: Path) -> None:
    """The live engine's picture of the fitted frame is the picture that the authors' camera took of it."""
    transl, camera = np.array([0.05, 0.42, -0.1]), np.array([0.03, 0.1, 8.0])
    zeros = {name: np.zeros((3, n), np.float32) for name, n in {
        "body_pose_axis": 63, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3, "left_hand_pose": 12, "right_hand_pose": 12,
    }.items()}  # fmt: skip
    fit = zeros | {
        "global_orient": np.tile(np.float32([np.pi, 0, 0]), (3, 1)),  # upright, in coordinates whose Y points down
        "expression": np.zeros((3, 100), np.float32),
        "transl": np.tile(transl.astype(np.float32), (3, 1)),
        "betas": np.zeros((1, 300), np.float32),
        "camera_transl": camera.astype(np.float32),
        "width": 1280, "height": 720, "focal_length": 5000.0,
    }  # fmt: skip
    (tmp_path / "fit.pkl").write_bytes(pickle.dumps(fit))
    avatar = import_avatar(origin(tree, fit=tmp_path / "fit.pkl", camera=None), tmp_path / "out", lambda line: None)

    clip = read_clip(tmp_path / "fit.pkl")
    body = BodyModel.load(standin_path()).shaped()
    pose = clip.poses[0].copy()
    pose[:3] = fit["global_orient"][0]
    x, y, z = body.vertices(pose, clip.expressions[0], transl.astype(np.float32)).copy().T.astype(np.float64)
    # engine.condition.authors_camera: mesh turned about X, the camera at the translation with y negated
    focal, (tx, ty, tz) = 5000 / 720 * avatar.size, camera
    wanted = np.stack([64 + focal * (x - tx) / (z + tz), 64 + focal * (y - ty) / (z + tz)], axis=1)
    staged = Staging(avatar.root)(PoseFrame(0, clip.poses[0], clip.expressions[0], clip.transl[0]))
    vertices = body.vertices(staged.pose, staged.expression, staged.transl)
    np.testing.assert_allclose(avatar.camera.camera().project(vertices)[:, :2], wanted, atol=0.02)


def test_the_authors_own_numbers_come_out_of_an_imported_body(shared: Path, tree: Tree, tmp_path: Path) -> None:
    """A checkpoint of another size, and what their code computes with it; half precision is what differs."""
    golden = shared / "data" / "mya-golden"
    import_avatar(origin(tree, tree=golden / "ckpt", head_reference=None), tmp_path / "out", lambda line: None)
    given, said = np.load(golden / "inputs.npz"), np.load(golden / "golden.npz")
    body = stored.load(tmp_path / "out").body
    body.control_scale = 2.0
    body.set_window(8, "window")
    sample = torch.from_numpy(said["eval_in"][0]).transpose(0, 1)
    condition, tokens = torch.from_numpy(given["condition"][:8]), torch.from_numpy(given["appearance"])
    with torch.no_grad():
        prediction = body(sample, torch.full((8,), 500), condition, tokens)
    wanted = said["eval_eps"][0].transpose(1, 0, 2, 3)
    assert np.linalg.norm(prediction.numpy() - wanted) < 2e-3 * np.linalg.norm(wanted)


@pytest.mark.parametrize("live", [False, True])
def test_the_authors_own_latents_come_out_of_an_imported_body(
    shared: Path, tree: Tree, tmp_path: Path, live: bool
) -> None:
    """From the importer, in single precision, through four steps over the whole clip, at once and as a stream."""
    golden = shared / "data" / "mya-golden"
    source = origin(tree, tree=golden / "ckpt", head_reference=None, single=True)
    import_avatar(source, tmp_path / "out", lambda line: None)
    given, said = np.load(golden / "inputs.npz"), np.load(golden / "golden.npz")
    body = stored.load(tmp_path / "out").body
    body.control_scale = 1.0
    condition = torch.from_numpy(given["condition"])
    tokens = torch.from_numpy(np.concatenate([given["unconditional"], given["appearance"]]))
    how = Sampler(Schedule(), spaced(Schedule(), 4), "epsilon", guidance=3.5)

    @torch.no_grad()
    def predict(latents: torch.Tensor, frames: range, step: int) -> torch.Tensor:
        n = len(frames)
        body.set_window(n, "window")
        seen = condition[frames.start : frames.stop].repeat(2, 1, 1, 1)
        times = torch.full((2 * n,), how.times.now[step])
        said = body(latents.repeat(2, 1, 1, 1), times, seen, tokens.repeat_interleave(n, dim=0))
        return said.reshape(2, n, *said.shape[1:])

    start = torch.from_numpy(given["latents"][0]).transpose(0, 1).contiguous()
    if live:
        stream = Exact(how, predict, 8, 4)
        out = [latents.clone() for noise in start for latents in stream.push(noise)]
        latents = torch.stack(out + stream.flush())
    else:
        latents = offline(start, predict, how, windows(21, 8, 4))
    wanted = said["ddim4_ws8_os4"][0].transpose(1, 0, 2, 3)
    assert np.abs(latents.numpy() - wanted).max() <= 1e-3


Break = Callable[[Tree], object]


def changed(part: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Break:
    def break_it(tree: Tree) -> None:
        folder = tree.source / part
        weights = load_file(folder / SAFE)
        change(weights)
        write_weights(weights, folder)

    return break_it


def cut(file: str, to_bin: bool = False) -> Break:
    def break_it(tree: Tree) -> None:
        path = tree.source.parent / file
        if to_bin:
            weights = load_file(path)
            path.unlink()
            path = write_weights(weights, path.parent, safe=False)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return break_it


def fields(file: str, **values: object) -> Break:
    def break_it(tree: Tree) -> None:
        path = tree.source.parent / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return break_it


def gone(file: str) -> Break:
    def break_it(tree: Tree) -> None:
        path = tree.source.parent / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return break_it


class Harm:
    """Unpickled plainly, it makes a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return open, ("harm", "w")


def harmful(zipped: bool) -> Break:
    def break_it(tree: Tree) -> None:
        folder = tree.source / "body" / "unet"
        (folder / SAFE).unlink()
        weights = {"conv_in.weight": torch.zeros(2), "harm": Harm()}
        torch.save(weights, folder / BIN, _use_new_zipfile_serialization=zipped)

    return break_it


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (changed("body/unet", lambda w: w.pop("conv_in.weight")), ["body/unet", "missing conv_in.weight"]),
        (changed("head/controlnet", lambda w: w.update(more=torch.zeros(1))), ["head/controlnet", "unexpected more"]),
        (changed("body/unet", lambda w: w.update({"conv_in.bias": torch.zeros(3)})), ["conv_in.bias", "(16,)", "(3,)"]),
        (changed("body/unet", lambda w: w["conv_in.bias"].fill_(1e6)), ["conv_in.bias", "half precision"]),
        (changed("body/unet", lambda w: w["conv_in.bias"].fill_(torch.nan)), ["conv_in.bias", "NaN"]),
        (changed("body/unet", lambda w: w.update({"conv_in.bias": torch.ones(16).int()})), ["conv_in.bias", "floats", "int32"]),
        (cut(f"seth/body/unet/{SAFE}"), ["body/unet", SAFE, "whole tensors"]),
        (cut(f"seth/body/controlnet/{SAFE}", to_bin=True), ["body/controlnet", BIN, "whole tensors"]),
        (harmful(zipped=True), ["body/unet", BIN, "tensors alone", "calls"]),
        (harmful(zipped=False), ["body/unet", BIN, "tensors alone", "calls"]),
        (lambda t: torch.save([torch.zeros(2)], gone_first(t) / BIN), [BIN, "tensors by name", "list"]),
        (gone(f"seth/head/unet/{SAFE}"), ["head/unet", "neither"]),
        (gone("seth/body/unet/config.json"), ["body/unet", "config.json"]),
        (gone("seth/body"), ["body/unet", "no such folder"]),
        (gone("seth/head/controlnet"), ["head/controlnet", "no such folder"]),
        (fields("seth/body/unet/config.json", _class_name="AutoencoderKL"), ["_class_name", "UNet2DConditionModel"]),
        (fields("seth/body/unet/config.json", down_block_types=["NoSuchBlock"]), ["body/unet", "fields"]),
        (fields("seth/body/unet/config.json", in_channels=9), ["body/unet", "in_channels", "expected 4", "got 9"]),
        (fields("seth/head/unet/config.json", in_channels=4), ["head/unet", "in_channels", "expected 9", "got 4"]),
        (fields("seth/body/unet/config.json", sample_size=20), ["sample_size", "multiple of 16"]),
        (fields("seth/body/controlnet/config.json", cross_attention_dim=16), ["body/controlnet", "cross_attention_dim", "32"]),
        (fields("seth/body/controlnet/config.json", layers_per_block=2), ["layers_per_block", "the UNet's 1"]),
        (gone("sd15/vae"), ["sd15/vae", "no such folder"]),
        (cut(f"sd15/vae/{SAFE}"), ["sd15/vae"]),
        (gone("sd15/text_encoder"), ["sd15/text_encoder"]),
        (cut("sd15/text_encoder/model.safetensors"), ["sd15/text_encoder"]),
        (gone("sd15/tokenizer"), ["sd15/tokenizer"]),
        (gone("sd15/tokenizer/vocab.json"), ["sd15/tokenizer"]),
        (gone("sd15/scheduler"), ["scheduler_config.json", "no such file"]),
        (fields("sd15/scheduler/scheduler_config.json", beta_schedule="squaredcos_cap_v2"), ["beta_schedule", "scaled_linear"]),
        (fields("sd15/scheduler/scheduler_config.json", clip_sample=True), ["clip_sample"]),
        (gone("clip"), ["clip", "no such folder"]),
        (gone("clip/model.safetensors"), ["clip", "CLIPVisionModel"]),
        (gone("body.png"), ["body.png"]),
        (lambda t: t.head_picture.write_text("a face"), ["head.png", "a picture"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_stays(
    copied: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, break_it: Break, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    break_it(copied)
    with pytest.raises(InputError) as caught:
        import_avatar(origin(copied), tmp_path / "out", lambda line: None)
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line
    assert len(line) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["mya"]


def gone_first(tree: Tree) -> Path:
    folder = tree.source / "body" / "unet"
    (folder / SAFE).unlink()
    return folder


def test_options_that_miss_something_say_what(tree: Tree, tmp_path: Path) -> None:
    clip = tmp_path / "clip.bvh"
    clip.write_text("HIERARCHY\nnot much\n")
    for changes, words in (
        ({"camera": None}, "--camera X Y Z"),
        ({"head_reference": None}, "--head-reference PICTURE, or --no-face"),
        ({"body": tmp_path / "SMPLX_NEUTRAL.npz"}, "no such file"),
        ({"fit": clip}, "clip.bvh"),
    ):
        with pytest.raises(InputError, match=words):
            import_avatar(origin(tree, **changes), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="new or empty"):
        import_avatar(origin(tree), tmp_path / "out", lambda line: None)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_import_that_stops_midway_leaves_nothing(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    (tmp_path / ".out.part" / "body").mkdir(parents=True)  # of one that was killed
    written = []

    def save_part(network: torch.nn.Module, folder: Path, name: str, dtype: torch.dtype) -> None:
        if len(written) == 2:
            raise failure
        stored.save_part(network, folder, name, dtype)
        written.append(folder / name)
        assert (folder / name / "config.json").exists()

    monkeypatch.setattr(make_your_anchor, "save_part", save_part)
    with pytest.raises(type(failure)):
        import_avatar(origin(tree), tmp_path / "out", lambda line: None)
    assert not list(tmp_path.iterdir())


def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["liveanchor", "avatar", *arguments])
    with pytest.raises(SystemExit) as ending:
        liveanchor.main()
    said = capsys.readouterr()
    return int(ending.value.code or 0), said.out, said.err


def test_the_command(
    tree: Tree, imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tree.base, tmp_path / "sd15")
    shutil.copytree(tree.image_encoder, tmp_path / "sd15" / "image_encoder")  # where it is looked for
    (tmp_path / "out").mkdir()  # empty
    status, out, err = command(
        capsys, monkeypatch, "import", str(tree.source), "--from", "make-your-anchor", "--base", str(tmp_path / "sd15"),
        "--reference", str(tree.body_picture), "--head-reference", str(tree.head_picture), "--camera", "0", "-0.1", "8",
        "--name", "anchor", "--person", "real", "-o", str(tmp_path / "out"),
    )  # fmt: skip
    assert status == 0, err
    assert out.count("million weights") == 6
    assert f"liveanchor export --avatar {tmp_path / 'out'}" in out
    avatar = toml.read(tmp_path / "out" / "avatar.toml", Avatar)
    assert (avatar.name, avatar.person) == ("anchor", "real")
    assert weights_of(tmp_path / "out") == weights_of(imported)


def test_the_command_teaches_by_example_and_names_what_it_knows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    status, out, _ = command(capsys, monkeypatch, "--help")
    assert status == 0
    assert "liveanchor avatar import seth --from make-your-anchor" in out.partition("Example")[2]
    status, _, err = command(
        capsys, monkeypatch, "import", "x", "--from", "animate-anyone", "--base", "x", "--reference", "x", "-o", "x"
    )
    assert status == 1
    assert err.splitlines() == ["liveanchor: avatar import: --from: expected make-your-anchor, got animate-anyone"]
