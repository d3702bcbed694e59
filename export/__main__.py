"""`python -m export AVATAR [--verify]`: trace an avatar's networks into ONNX graphs; compare every runtime with torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from engine.errors import InputError
from export.avatar import export_avatar
from export.tracing import Traced
from export.verify import verify


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("avatar", type=Path)
    parser.add_argument("--verify", action="store_true", help="compare with torch afterwards")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    console = Console()

    def tell(traced: Traced, file: Path) -> None:
        common = sorted(traced.nodes.items(), key=lambda pair: -pair[1])[:8]
        census = ", ".join(f"{count} {kind}" for kind, count in common)
        console.print(
            f"{file.name:22} {file.stat().st_size / 1000:6.1f} kB  {sum(traced.nodes.values())} nodes: {census}"
        )

    try:
        export_avatar(given.avatar, tell)
        if given.verify:
            bad = False
            for row in verify(given.avatar, threads=given.threads):
                console.print(str(row))
                bad |= not row.good
            return int(bad)
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
