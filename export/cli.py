"""The commands `liveanchor avatar ...`: what is done with avatars as folders. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import InputError
from engine.importing import KNOWN

IMPORT = "liveanchor avatar import seth --from make-your-anchor --base stable-diffusion-v1-5 --image-encoder clip-vit-base-patch32 "
IMPORT += "--reference body.png --head-reference head.png --fit seth.pkl --out my-avatar"


class Person(StrEnum):
    synthetic = "synthetic"
    real = "real"
    unknown = "unknown"


app = typer.Typer(
    help="Avatars as folders: make one of another program's checkpoint.",
    epilog=f"Example:  {IMPORT}",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.callback()
def _group() -> None:
    """Verbs keep their names, however many there are."""


@app.command("import", epilog=f"Example:  {IMPORT}")
def import_command(
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="The checkpoint: a folder with body/ and, if there is one, head/.")
    ],
    kind: Annotated[str, typer.Option("--from", help=f"Whose checkpoint it is: {', '.join(KNOWN)}.")],
    base: Annotated[
        Path, typer.Option(help="Folder of Stable Diffusion 1.5: vae, scheduler, tokenizer, text_encoder.")
    ],
    reference: Annotated[
        Path, typer.Option(help="Picture of the person, as in the video that the networks learnt from.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The avatar's folder: new or empty.")],
    head_reference: Annotated[Path | None, typer.Option(help="Picture of the aligned face.")] = None,
    image_encoder: Annotated[
        Path | None, typer.Option(help="Folder of CLIP ViT-B/32; by default image_encoder in the base's.")
    ] = None,
    fit: Annotated[
        Path | None, typer.Option(help="The person's SMPL-X fit in that video: a SHOW .pkl says camera and shape.")
    ] = None,
    camera: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="The camera's translation in metres, as SHOW's camera_transl."),
    ] = None,
    body: Annotated[Path | None, typer.Option(help="Your SMPLX_*.npz; the stand-in body by default.")] = None,
    name: Annotated[str, typer.Option(help="The avatar's name; the checkpoint folder's by default.")] = "",
    person: Annotated[Person, typer.Option(help="Whom the pictures show.")] = Person.unknown,
    licence: Annotated[str, typer.Option(help="The licence of the weights, as avatar.toml is to say it.")] = "",
    face: Annotated[bool, typer.Option("--face/--no-face", help="With the second pass over the face.")] = True,
    single: Annotated[
        bool, typer.Option("--single/--half", help="Keep weights in single precision; the authors run them in half.")
    ] = False,
) -> None:
    """Make an avatar of a checkpoint of Make-Your-Anchor. Needs the extra \\[train]; see docs/avatars.md."""
    if kind not in KNOWN:
        raise InputError("avatar import", "--from", " | ".join(KNOWN), kind)
    from engine.importing.make_your_anchor import Origin, import_avatar

    origin = Origin(
        source, base, image_encoder or base / "image_encoder", reference, head_reference, fit, camera, body, face, name,
        person.value, licence, single,
    )  # fmt: skip
    import_avatar(origin, out, typer.echo)
    typer.echo(f"{out}: an avatar without graphs; next: liveanchor export --avatar {out}")
