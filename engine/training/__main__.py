"""`python -m engine.training STAGE CLIP ... --runs RUNS`: one stage of training, or `observe CLIP` before them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from engine.errors import InputError
from engine.training.dataset import observe
from engine.training.train import RECIPES, train


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.training", description=__doc__)
    parser.add_argument("stage", choices=["observe", *RECIPES])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", dest="compiled", action="store_false")
    given = vars(parser.parse_args())
    stage, clips, runs = given.pop("stage"), given.pop("clips"), given.pop("runs")
    try:
        if stage == "observe":
            for clip in clips:
                observe(clip)
        else:
            train(stage, clips, runs, **given)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
