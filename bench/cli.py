"""`liveanchor bench`: the command's options, and nothing that measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import InputError

app = typer.Typer(
    help="Measure: an avatar's quality on held-out frames, its modes side by side, its networks' speed.",
    no_args_is_help=True,
)


@app.callback()
def _bench() -> None:
    """Measure."""


@app.command(
    epilog="Examples:  liveanchor bench quality runs/studio/noah   |   "
    "liveanchor bench quality runs/studio/noah --row 'Setting I'=runs/setting-1/avatar"
)
def quality(
    clips: Annotated[list[Path], typer.Argument(help="Observed studio clips of one person, with held-out parts.")],
    avatar: Annotated[Path | None, typer.Option(help="Avatar folder; the bundled anchor by default.")] = None,
    row: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR: a row of the tables from another avatar's folder.")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="Only these rows of the avatar itself; all by default.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="An earlier quality.json: rows that are not judged now are taken from there.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for quality.json, .md, .jpg and .mp4.")] = Path("bench/results"),
    runs: Annotated[Path, typer.Option(help="Folder that keeps the landmark network.")] = Path("runs/quality"),
    frames: Annotated[int | None, typer.Option(min=2, help="At most so many frames of each part.")] = None,
    regressor_steps: Annotated[int | None, typer.Option(min=1, help="Training steps of the landmark network.")] = None,
    runtime: Annotated[str, typer.Option(help="What runs the networks: auto, openvino, onnxruntime.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, f32, bf16, f16 or int8, as far as the runtime has it.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads for the networks; all cores by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise and of the landmark network.")] = 0,
) -> None:
    """Judge an avatar on held-out frames, and print the paper's tables for it. Needs the extra \\[train]."""
    try:
        from bench.quality.run import Order, run
    except ImportError as error:
        raise InputError("bench quality", "packages", "those of the extra [train]", str(error)) from None
    order = Order(tuple(clips), rows=dict(_pair(text) for text in row or ()), out=out, runs=runs, frames=frames, seed=seed,
                  runtime=runtime, precision=precision, threads=threads, keep=keep)  # fmt: skip
    if avatar is not None:
        order = replace(order, avatar=avatar)
    if variant is not None:
        order = replace(order, variants=tuple(variant))
    if regressor_steps is not None:
        order = replace(order, recipe=replace(order.recipe, steps=regressor_steps))
    run(order)
    typer.echo(f"{out / 'quality.md'} says how it went; {out / 'quality.jpg'} shows it")


@app.command(epilog="Example:  liveanchor bench modes runs/studio/noah --part talk")
def modes(
    clips: Annotated[list[Path], typer.Argument(help="Observed studio clips of one person, with held-out parts.")],
    avatar: Annotated[Path | None, typer.Option(help="Avatar folder; the bundled anchor by default.")] = None,
    part: Annotated[list[str] | None, typer.Option(help="Only these held-out parts.")] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="At most so many frames of each part.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there, too.")] = None,
    runtime: Annotated[str, typer.Option(help="What runs the networks: auto, openvino, onnxruntime.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, f32, bf16, f16 or int8, as far as the runtime has it.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads for the networks; all cores by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
) -> None:
    """Paint held-out motion in every mode, and print what each waits for, costs and looks like: docs/modes.md."""
    import json

    from bench.modes import markdown, run
    from bench.record import write_text
    from engine.avatar import bundled_avatar

    result = run(
        avatar or bundled_avatar(), clips, part or (), frames, runtime=runtime, precision=precision, threads=threads,
        seed=seed,
    )  # fmt: skip
    if json_file is not None:
        write_text(json_file, json.dumps(result, indent=1) + "\n")
    typer.echo(markdown(result["rows"]), nl=False)


@app.command(epilog="Example:  liveanchor bench throughput --threads 2 --json throughput.json")
def throughput(
    avatar: Annotated[Path | None, typer.Option(help="Avatar folder; the bundled anchor by default.")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Only this one; all that this machine can use by default.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Only this one; all that a runtime has by default.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for the networks; all cores by default.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there, too.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise, and of poses where the avatar has no clip.")] = 0,
) -> None:
    """Time every network on inputs of real calls, in every runtime and precision side by side."""
    import json

    from bench.record import write_text
    from bench.throughput import markdown, run
    from engine.avatar import bundled_avatar

    result = run(avatar or bundled_avatar(), runtime, precision, threads, seed)
    if json_file is not None:
        write_text(json_file, json.dumps(result, indent=1) + "\n")
    typer.echo(markdown(result), nl=False)


@app.command(epilog="Example:  liveanchor bench gpu --json bench/results/gpu.json")
def gpu(
    precision: Annotated[str, typer.Option(help="Of the networks: f16, bf16 or f32.")] = "bf16",
    frames: Annotated[int, typer.Option(min=8, help="So many of each setting.")] = 200,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there, too.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Networks of Stable Diffusion 1.5's size with random weights, in torch: frames a second in each mode, against eager diffusers.

    Runs on a GPU where torch has one; on a CPU it takes hours. Needs the extra \\[train].
    """
    import json
    import tempfile

    from bench.full_size import Row, run
    from bench.record import write_text
    from engine.networks.configs import SD15

    def tell(row: Row) -> None:
        s = row.setting
        typer.echo(
            f"{s.mode:7} {s.window:2}/{s.overlap} {s.steps} steps  {row.provider:6} {row.fps:7.1f} frames a second, "
            f"p95 {row.p95_ms:7.1f} ms, {row.tflop_s:6.1f} TFLOP/s, {100 * row.ceiling:3.0f} % of a matrix product's"
        )

    with tempfile.TemporaryDirectory(prefix="liveanchor-") as folder:
        result = run(SD15, Path(folder), precision, frames, seed=seed, tell=tell)
    if json_file is not None:
        write_text(json_file, json.dumps(result, indent=1) + "\n")


def _pair(text: str) -> tuple[str, Path]:
    name, sign, folder = text.partition("=")
    if not sign or not name or not folder:
        raise InputError("bench quality", "--row", "NAME=DIR", text)
    return name.strip(), Path(folder)
