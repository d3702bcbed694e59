"""`liveanchor export`: the command's options, its progress and what it prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import InputError
from engine.progress import bar_of

if TYPE_CHECKING:
    from export.cache import EngineCache
    from export.engines import Built

EXAMPLE = "Examples:  liveanchor export --avatar my-avatar --verify   |   liveanchor export --runtime tensorrt --precision f16 --verify"
COMMON = 6  # kinds of nodes that are named


def export(
    avatar: Annotated[Path | None, typer.Option(help="Avatar folder; the bundled anchor by default.")] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="Make engines for this runtime, too: `liveanchor doctor` lists them. Graphs alone by default."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="f32, f16, bf16 or int8, as far as the runtime has it; auto is what it is best at.")
    ] = "auto",
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with torch on random and real inputs; what differs is not kept.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for the networks; all cores by default.")] = None,
) -> None:
    """Turn an avatar's networks into graphs that the runtimes load, and those into engines. Needs the extra \\[train].

    Graphs are written into the avatar's folder, engines into a cache that `serve` and `render` find them in.
    """
    from engine.avatar import bundled_avatar
    from export.cache import EngineCache
    from export.verify import reading

    folder, cache = avatar or bundled_avatar(), EngineCache.of_user()
    if runtime is None:
        stored = "f32" if precision == "auto" else precision
        graphs_of(folder, stored)
        if verify:
            compare(folder, list(reading(stored)), cache, threads)
        return
    engines_of(folder, runtime, precision, cache, verify, threads)


def graphs_of(folder: Path, precision: str) -> None:
    """Export the graphs, and say of each how large it is, and of what nodes."""
    from engine import toml
    from engine.avatar import FILE, Avatar
    from export.avatar import export_avatar
    from export.tracing import PRECISIONS, Traced

    if precision not in PRECISIONS:
        raise InputError("export", "--precision", " | ".join(PRECISIONS), precision, "others need a --runtime")
    census: Counter[str] = Counter()
    with bar_of("graphs") as bar:
        task = bar.add_task("tracing", total=len(toml.read(folder / FILE, Avatar).networks) or None)

        def tell(traced: Traced, file: Path) -> None:
            census.update(traced.nodes)
            size = f"{file.stat().st_size / 1000:7.1f} kB"
            typer.echo(f"{file.name:24} {size}  {listed(traced.nodes)}")
            bar.update(task, advance=1)

        export_avatar(folder, tell, precision)
    typer.echo(f"{folder}: in all {listed(census)}")


def engines_of(
    folder: Path, runtime: str, precision: str, cache: EngineCache, verify: bool, threads: int | None
) -> None:
    """Make every engine, and say of each how large it is and how long it took."""
    from export.engines import build, graphs_for
    from export.ladder import runs

    if verify and (why := runs(runtime)):
        raise InputError("export", "--verify", f"a machine that runs {runtime}", why, "without it engines are built")
    stored, names = graphs_for(folder, runtime, precision)
    if not names:
        graphs_of(folder, stored)
        stored, names = graphs_for(folder, runtime, precision)
    built: list[Built] = []
    with bar_of("engines") as bar:
        task = bar.add_task("building", total=len(names))
        report = lambda graph, done: bar.update(task, description=graph, completed=len(built) + done)  # noqa: E731
        for one in build(folder, runtime, precision, cache, names, threads, report):
            built.append(one)
            bar.update(task, completed=len(built))
            typer.echo(str(one))
    size, seconds = sum(one.bytes for one in built), sum(one.seconds for one in built)
    typer.echo(f"{folder}: {len(built)} graphs ready, {size / 1e6:.1f} MB, {seconds:.1f} s")
    if verify:
        compare(folder, [(one.runtime, one.precision) for one in built[:1]], cache, threads, built)


def compare(
    folder: Path,
    ways: Sequence[tuple[str, str]],
    cache: EngineCache,
    threads: int | None,
    built: Sequence[Built] = (),
) -> None:
    """Print each comparison with torch. InputError at the end where one is worse than its precision allows."""
    from engine.avatar import Avatar
    from export.engines import verified
    from export.verify import real_inputs

    avatar = Avatar.load(folder)
    with bar_of("outputs") as bar:
        task = bar.add_task("painting for real inputs", total=None)
        real = real_inputs(avatar, threads)
        bar.update(task, description="comparing")
        wrong = count = 0
        for row in verified(folder, ways, cache, built, real, threads):
            typer.echo(str(row))
            count, wrong = count + 1, wrong + (not row.good)
            bar.update(task, completed=count)
    if wrong:
        raise InputError(
            str(folder), "engines", "what torch computes", f"{wrong} of {count} outputs that differ by more"
        )
    typer.echo(f"{folder}: {count} outputs agree with torch")


def listed(nodes: Mapping[str, int]) -> str:
    """A census in a line: how many nodes, and how many of the commonest kinds."""
    common = ", ".join(f"{count} {kind}" for kind, count in Counter(nodes).most_common(COMMON))
    return f"{sum(nodes.values())} nodes: {common}"
