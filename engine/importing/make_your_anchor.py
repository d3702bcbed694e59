"""Make-Your-Anchor's checkpoints (arXiv 2403.16510) as avatars: `<id>/{body,head}/{unet,controlnet}`, finetuned on one person.

Settings are those of the paper and of its authors' scripts: 20 DDIM steps, classifier-free guidance, windows of 16 frames
that overlap by 4 with statistics pooled over them, one noise for all frames, the head per frame on an aligned crop.

    origin = Origin(Path("seth"), base=Path("stable-diffusion-v1-5"), image_encoder=Path("clip-vit-base-patch32"), ...)
    import_avatar(origin, Path("my-avatar"), print)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image

from engine import steps
from engine.appearance import UNCONDITIONAL, read_picture
from engine.avatar import Avatar, CameraFields, ConditionFields, DenoiseFields, FaceFields, LatentFields, Person
from engine.errors import InputError
from engine.importing.base import Base, quiet, read_base, read_image_encoder
from engine.importing.checkpoint import CONFIG, described, fill
from engine.importing.place import Place, Vector, read_place
from engine.networks.folder import save_part

FPS = 30.0  # of the authors' clips
STEPS = 20
NETWORKS = {"unet": UNet2DConditionModel, "controlnet": ControlNetModel}
GRAPHS = {"body": ("body", "decoder"), "head": ("face", "face_decoder")}


@dataclass(frozen=True)
class Origin:
    """What an avatar is made of: the authors' tree and all that belongs to it."""

    tree: Path  # body/ and, unless there is none, head/
    base: Path  # Stable Diffusion 1.5: vae, scheduler, tokenizer, text_encoder
    image_encoder: Path  # CLIP ViT-B/32
    reference: Path  # a picture of the person, as in the training video
    head_reference: Path | None = None  # the same of the aligned face; not needed without a head
    fit: Path | None = None  # for these three see engine.importing.place
    camera: Vector | None = None
    body: Path | None = None
    face: bool = True  # with the face pass, where the tree has a head
    name: str = ""  # the tree's by default
    person: Person = "unknown"
    licence: str = ""  # of the weights
    single: bool = False  # weights stay in single precision, instead of the half in which the authors run them


def import_avatar(origin: Origin, out: Path, tell: Callable[[str], None]) -> Avatar:
    """Write the avatar of `origin` into `out`, all of it or nothing; graphs come afterwards, by export.

    `tell` is given a line for every part. InputError for whatever is missing, broken, or does not fit together.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(str(out), "out", "a folder that is new or empty", "one that is not")
    halves = _halves(origin, tell)
    networks = {
        f"{half}/{kind}": described(NETWORKS[kind], origin.tree / half / kind) for half in halves for kind in NETWORKS
    }
    encoder = read_image_encoder(origin.image_encoder)
    vision = encoder.config
    base = read_base(origin.base, 1 + (vision.image_size // vision.patch_size) ** 2)
    for check in _checks(networks, base, vision.hidden_size):
        if not check.good:
            where = str(origin.tree / check.network / CONFIG)
            raise InputError(where, check.field, check.expected, str(check.got)[:80])
    pictures = {half: clip_picture(file, vision.image_size) for half, file in halves.items()}
    size = int(networks["body/unet"].config.sample_size) * base.cell
    avatar = describe(origin, base, read_place(origin.fit, origin.camera, origin.body, size), tuple(halves))
    dtype = torch.float32 if origin.single else torch.half
    with _whole(out) as folder:
        for part, network in (*networks.items(), ("vae", base.vae), ("image_encoder", encoder)):
            if part in networks:
                fill(network, origin.tree / part, dtype)
            with quiet():
                save_part(network, folder, part, dtype)
            tell(f"{part:16} {sum(p.numel() for p in network.parameters()) / 1e6:8.1f} million weights")
            network.to("meta")  # its memory is the next one's
        (folder / "appearance").mkdir()
        for half, picture in pictures.items():
            Image.fromarray(picture).save(folder / avatar.appearance[half])
        np.save(folder / avatar.appearance[UNCONDITIONAL], base.unconditional)
        avatar.write(folder)
    return avatar


def describe(origin: Origin, base: Base, place: Place, halves: tuple[str, ...]) -> Avatar:
    """avatar.toml, by the authors' settings; the face is painted at half of the picture's size."""
    size = place.camera.width
    channels, scale = int(base.vae.config.latent_channels), float(base.vae.config.scaling_factor)
    times = steps.spaced(base.schedule, STEPS).now
    common = DenoiseFields(times, base.prediction, "ddim", noise="shared")
    pooled = replace(common, guidance=7.5, control_scale=2.0, window=16, overlap=4, normalisation="window")
    alone = replace(common, guidance=3.5, control_scale=1.0, window=1, overlap=0, normalisation="frame")
    named = origin.tree.resolve().name
    return Avatar(
        name=origin.name or named,
        size=size,
        fps=FPS,
        networks={graph: f"{graph}.onnx" for half in halves for graph in GRAPHS[half]},  # the export completes them
        latent=LatentFields(channels, size // base.cell, scale),
        denoise=pooled,
        camera=CameraFields.of(place.camera),
        schedule=base.schedule,
        condition=ConditionFields("authors", size),
        body=place.body,
        face=FaceFields("head" in halves, size // 2, latent=LatentFields(channels, size // 2 // base.cell, scale), denoise=alone),
        appearance={half: f"appearance/{half}.png" for half in halves} | {UNCONDITIONAL: f"appearance/{UNCONDITIONAL}.npy"},
        person=origin.person,
        licence=origin.licence,
        provenance={"imported_from": "make-your-anchor", "identity": named, "base": origin.base.resolve().name},
    )  # fmt: skip


def clip_picture(file: Path, size: int) -> np.ndarray:
    """A reference picture as CLIP's own preprocessing cuts it: the shorter side to `size`, bicubic, then the middle square."""
    picture = Image.fromarray(read_picture(file))
    width, height = picture.size
    short = min(width, height)
    picture = picture.resize((int(width * size / short), int(height * size / short)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def _halves(origin: Origin, tell: Callable[[str], None]) -> dict[str, Path]:
    """Reference pictures by the halves of the tree that the avatar gets: body, and head with a face pass."""
    if not origin.face or not (origin.tree / "head").is_dir():
        if origin.face:
            tell(f"{origin.tree}: no head, so this avatar gets no face pass")
        return {"body": origin.reference}
    if origin.head_reference is None:
        raise InputError("avatar import", "head reference", "--head-reference PICTURE, or --no-face", "neither")
    return {"body": origin.reference, "head": origin.head_reference}


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` at the end, and goes where something fails."""
    half_done = out.with_name(f".{out.name}.part")
    shutil.rmtree(half_done, ignore_errors=True)  # of an import that was killed
    half_done.mkdir(parents=True)
    try:
        yield half_done
        if out.exists():  # and is empty
            out.rmdir()
        half_done.replace(out)
    except BaseException:
        shutil.rmtree(half_done, ignore_errors=True)
        raise


@dataclass(frozen=True)
class _Check:
    """Something that must agree between two parts."""

    network: str
    field: str
    expected: str
    good: bool
    got: object


def _checks(networks: dict[str, Any], base: Base, width: int) -> Iterator[_Check]:
    """Everything that must agree; `width` is the image encoder's."""
    latents, empty = int(base.vae.config.latent_channels), base.unconditional.shape[-1]
    size = networks["body/unet"].config.sample_size
    yield _Check(
        "body/unet", "sample_size", "a multiple of 16", type(size) is int and size > 0 and size % 16 == 0, size
    )
    for name, network in networks.items():
        half, kind = name.split("/")
        c, unet = network.config, networks[f"{half}/unet"].config
        expected = f"the image encoder's {width} and the text encoder's {empty}"
        across = c.cross_attention_dim
        yield _Check(name, "cross_attention_dim", expected, across == width == empty, across)
        if kind == "unet":
            wanted = latents if half == "body" else 2 * latents + 1  # noisy latents; mask; latents of what is kept
            yield _Check(name, "in_channels", str(wanted), c.in_channels == wanted, c.in_channels)
            yield _Check(name, "out_channels", str(latents), c.out_channels == latents, c.out_channels)
            continue
        known = (latents, unet.in_channels)
        yield _Check(
            name, "in_channels", " or ".join(map(str, sorted({*known}))), c.in_channels in known, c.in_channels
        )
        for field in ("block_out_channels", "layers_per_block", "down_block_types"):
            yield _Check(name, field, f"the UNet's {unet[field]}", c[field] == unet[field], c[field])
        embedding = c.conditioning_embedding_out_channels
        good = 2 ** (len(embedding) - 1) == base.cell
        yield _Check(name, "conditioning_embedding_out_channels", f"{base.cell} pixels a latent", good, embedding)
