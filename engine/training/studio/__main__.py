"""`python -m engine.training.studio body ASSETS OUT.npz`: the stand-in body. Films are made by `liveanchor studio`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from engine.errors import InputError
from engine.training.studio.standin_mesh import make_standin


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.training.studio", description=__doc__)
    parser.add_argument("what", choices=["body"])
    parser.add_argument("assets", type=Path, help="folder with MakeHuman's CC0 assets")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    try:
        make_standin(given.assets, given.out)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
