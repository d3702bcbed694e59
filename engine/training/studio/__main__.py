"""`python -m engine.training.studio body ASSETS OUT.npz`, and `film ASSETS OUT`: the stand-in body, and pictures to train on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from engine.clips import read_clip
from engine.errors import InputError
from engine.pose import PoseClip
from engine.training.studio.scene import Take, film
from engine.training.studio.standin_mesh import make_standin
from engine.training.talk.gestures import explore

FPS = 25.0
APART = 5  # frames of exploring motion between two pictures: neighbours teach little
HELD_OUT = 150  # pictures of another seed's motion, for judging


def lessons(talk: PoseClip, explored: int, seed: int) -> PoseClip:
    """What to train on: exploring motion thinned out, every other frame of a talk, and held-out exploring motion."""
    pieces = (
        (explore(explored * APART, FPS, seed), APART),
        (talk, 2),
        (explore(HELD_OUT * APART, FPS, seed + 966), APART),
    )
    return PoseClip(
        FPS,
        np.concatenate([clip.poses[::step] for clip, step in pieces]),
        np.concatenate([clip.expressions[::step] for clip, step in pieces]),
        np.concatenate([clip.transl[::step] for clip, step in pieces]),
        source="studio",
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.training.studio", description=__doc__)
    parser.add_argument("what", choices=["body", "film"])
    parser.add_argument("assets", type=Path, help="folder with MakeHuman's CC0 assets")
    parser.add_argument("out", type=Path)
    parser.add_argument("--identity", default="noah")
    parser.add_argument("--talk", type=Path, default=Path("engine/avatars/anchor/clip.npz"))
    parser.add_argument("--explored", type=int, default=1500, help="pictures of exploring motion")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    try:
        if given.what == "body":
            make_standin(given.assets, given.out)
            return 0
        motion = lessons(read_clip(given.talk), given.explored, given.seed)
        columns = (
            TextColumn("filming"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as bar:
            task = bar.add_task("filming", total=len(motion))
            film(
                Take(given.assets, given.identity), motion, given.out, HELD_OUT, seed=given.seed, workers=given.workers,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
