"""`python -m engine.training STAGE CLIP ... --runs RUNS`: one stage of training, or `observe CLIP` before them, `bundle CLIP ... --out AVATAR` after."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from engine.errors import InputError
from engine.training.bundle import sizes, write_bundle
from engine.training.dataset import observe
from engine.training.train import RECIPES, train


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.training", description=__doc__)
    parser.add_argument("stage", choices=["observe", *RECIPES, "bundle"])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="bundle: the avatar's folder")
    parser.add_argument("--context", type=int, default=0, help="bundle: finished frames that the body sees")
    parser.add_argument("--no-compile", dest="compiled", action="store_false")
    given = vars(parser.parse_args())
    stage, clips, runs = given.pop("stage"), given.pop("clips"), given.pop("runs")
    out, context = given.pop("out"), given.pop("context")
    try:
        if stage == "observe":
            for clip in clips:
                observe(clip)
        elif stage == "bundle":
            if out is None:
                raise InputError("bundle", "--out", "the avatar's folder", "none")
            write_bundle(runs, clips, out, config=given["config"], seed=given["seed"], context=context)
            table = sizes(out)
            lines = [f"{size / 1e6:6.2f} MB  {file}" for file, size in table.items()]
            sys.stdout.write("\n".join([*lines, f"{sum(table.values()) / 1e6:6.2f} MB  together", ""]))
        else:
            train(stage, clips, runs, **given)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
