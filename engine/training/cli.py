"""The commands `liveanchor train ...`. Nothing of training is imported before one of them runs: serving needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from engine import toml
from engine.avatar import FILE, Avatar
from engine.errors import InputError

app = typer.Typer(
    help="Train an avatar: autoencoder, pretrain, finetune, distill, face, hands, then bundle. Needs the extra \\[train].",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

STAGES = {
    "autoencoder": "The autoencoder of a tiny avatar: pictures to latents and back. (SD1.5 comes with one.)",
    "pretrain": "Stage 1: several identities, their background removed by the clips' mattes.",
    "finetune": "Stage 2: one identity with its background, from what pretrain left in RUNS or from an avatar.",
    "face": "The second pass over the aligned face: inpainting on the crop that the finetuned body paints.",
    "hands": "The second pass over both hands, in the same way.",
}


class Config(StrEnum):
    tiny = "tiny"
    sd15 = "sd15"


class Mode(StrEnum):
    causal = "causal"
    bank = "bank"


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    auto = "auto"
    f32 = "f32"
    bf16 = "bf16"
    fp16 = "fp16"


Clips = Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Clips' folders, observed.")]
Runs = Annotated[Path, typer.Option(help="Folder of runs; each stage has a folder of its own there.")]
ConfigName = Annotated[Config, typer.Option("--config", help="Sizes of the networks.")]
Seed = Annotated[int, typer.Option(help="Of the fresh weights and of every batch.")]


From = Annotated[
    Path | None, typer.Option("--from", metavar="AVATAR", help="Start from this avatar's weights where RUNS has none.")
]
Base = Annotated[
    Path | None, typer.Option(help="sd15: folder of the base model: unet, vae, scheduler, image_encoder, ...")
]
Minutes = Annotated[
    float | None, typer.Option(min=0.0, help="What this call may take, with --steps; else the length of the run.")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Length of the run in steps.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Frames a step.")]
Rate = Annotated[float | None, typer.Option(min=0.0, help="Largest learning rate.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Batches a step: gradients are added up.")]
DeviceName = Annotated[Device | None, typer.Option("--device", help="A GPU where there is one by default.")]
PrecisionName = Annotated[
    Precision,
    typer.Option("--precision", help="Of the networks' arithmetic, bf16 where it is fast by default; weights are f32."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")]
Compiled = Annotated[bool, typer.Option("--compile/--no-compile", help="Compile the pictures' loss.")]


def _stage(name: str) -> Callable[..., None]:
    def command(
        clips: Clips,
        runs: Runs = Path("runs"),
        avatar: From = None,
        base: Base = None,
        minutes: Minutes = None,
        steps: Steps = None,
        batch: Batch = None,
        rate: Rate = None,
        accumulate: Accumulate = 1,
        perturb: Annotated[
            float,
            typer.Option(
                min=0.0, metavar="SIGMA", help="pretrain, finetune: move the condition's joints by so many radians."
            ),
        ] = 0.0,
        background: Annotated[
            bool | None,
            typer.Option(
                "--background/--no-background",
                help="Whether people keep their background; only pretrain removes it.",
                show_default=False,
            ),
        ] = None,
        seed: Seed = 0,
        config: ConfigName = Config.tiny,
        device: DeviceName = None,
        precision: PrecisionName = Precision.auto,
        threads: Threads = None,
        compiled: Compiled = True,
    ) -> None:
        _check_length(name, minutes, steps)
        from engine.training.train import train

        train(
            name, clips, runs, config=config.value, avatar=avatar, base=base, minutes=minutes, steps=steps, batch=batch,
            rate=rate, accumulate=accumulate, perturb=perturb, background=background, seed=seed, device=device.value if device else None,
            precision=precision.value, threads=threads, compiled=compiled, tell=typer.echo,
        )  # fmt: skip

    return command


for _name, _help in STAGES.items():
    app.command(
        _name, help=_help, epilog=f"Example:  liveanchor train {_name} clips/noah --runs runs/noah --minutes 30"
    )(_stage(_name))


@app.command(epilog="Example:  liveanchor train distill clips/noah --runs runs/noah --to 2 --minutes 20")
def distill(
    clips: Clips,
    runs: Runs = Path("runs"),
    avatar: From = None,
    to: Annotated[
        list[int] | None, typer.Option(min=1, max=50, help="A number of steps to be good at; 1, 2 and 4 by default.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0.0, help="The teacher's, baked in; 1 for none. That of the avatar by default.")
    ] = None,
    pixels: Annotated[
        float, typer.Option(min=0.0, help="Weight of the pictures' own loss beside the teacher's.")
    ] = 0.0,
    minutes: Minutes = None,
    steps: Steps = None,
    batch: Batch = None,
    rate: Rate = None,
    accumulate: Accumulate = 1,
    seed: Seed = 0,
    config: ConfigName = Config.tiny,
    device: DeviceName = None,
    precision: PrecisionName = Precision.auto,
    threads: Threads = None,
    compiled: Compiled = True,
) -> None:
    """Teach the finetuned body to need few steps: consistency distillation, guidance baked in."""
    _check_length("distill", minutes, steps)
    from engine.training.consistency import Distillation
    from engine.training.train import train

    if guidance is None:
        guidance = toml.read(avatar / FILE, Avatar).denoise.guidance if avatar is not None else 1.0

    train(
        "distill", clips, runs, config=config.value, avatar=avatar, minutes=minutes, steps=steps, batch=batch, rate=rate,
        accumulate=accumulate, distillation=Distillation(tuple(to or (1, 2, 4)), guidance, pixels=pixels), seed=seed,
        device=device.value if device else None, precision=precision.value, threads=threads, compiled=compiled,
        tell=typer.echo,
    )  # fmt: skip


def _check_length(name: str, minutes: float | None, steps: int | None) -> None:
    if minutes is None and steps is None:
        raise InputError(f"train {name}", "length", "--minutes or --steps", "neither")


@app.command(epilog="Example:  liveanchor train observe clips/noah clips/ada")
def observe(clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Clips' folders.")]) -> None:
    """Ask the mesh about every picture of a clip, once: the condition, where head and hands are, the crops."""
    from rich.progress import Progress

    from engine.training.dataset import observe as look

    with Progress() as bar:
        for clip in clips:
            task = bar.add_task(clip.name)
            look(clip, progress=lambda done, total, task=task: bar.update(task, completed=done, total=total))  # type: ignore[misc]


@app.command(epilog="Example:  liveanchor train bundle clips/noah --runs runs/noah --out my-avatar")
def bundle(
    clips: Clips,
    out: Annotated[Path, typer.Option(help="The avatar's folder.")],
    runs: Runs = Path("runs"),
    avatar: Annotated[
        Path | None, typer.Option("--from", metavar="AVATAR", help="Take from this avatar what RUNS has not trained.")
    ] = None,
    base: Base = None,
    config: ConfigName = Config.tiny,
    context: Annotated[int, typer.Option(min=0, help="Past frames that the body sees.")] = 0,
    mode: Annotated[Mode, typer.Option(help="How it sees them live.")] = Mode.causal,
    steps: Annotated[int, typer.Option(min=1, max=50, help="Denoising steps of the body; see distill.")] = 1,
    smoothing: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="How far predictions are drawn to both neighbours' in a window.")
    ] = 0.0,
    seed: Seed = 0,
) -> None:
    """Make an avatar of what the stages left in RUNS; `liveanchor export` then makes its graphs.

    Of sd15 it makes the folder that `liveanchor avatar import --from make-your-anchor` reads, or, of the avatar that was
    distilled, one that needs few steps.
    """
    if config is Config.sd15:
        from engine.training.base import write_distilled, write_tree

        if avatar is not None:
            write_distilled(runs, avatar, out, steps)
            return
        if base is None:
            raise InputError(
                "train bundle", "--base", "the base model's folder, or --from the avatar that was distilled", "neither"
            )
        for part in write_tree(runs, base, out):
            typer.echo(f"{out / part}")
        return
    from engine.training.bundle import sizes, write_bundle

    write_bundle(
        runs,
        clips,
        out,
        config=config.value,
        seed=seed,
        context=context,
        mode=mode.value,
        steps=steps,
        smoothing=smoothing,
        avatar=avatar,
    )
    table = sizes(out)
    for file, size in table.items():
        typer.echo(f"{size / 1e6:6.2f} MB  {file}")
    typer.echo(f"{sum(table.values()) / 1e6:6.2f} MB  together")
