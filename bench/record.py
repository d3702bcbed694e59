"""What every result says about how it came to be: command, commit, versions, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "numba", "llvmlite", "openvino", "onnxruntime", "torch", "av")


def record() -> dict[str, Any]:
    """As plain values, for a result's JSON. Folders of this machine are left out of the command."""
    words = [re.sub(r"(^|=)/.*/", r"\1", word) for word in (Path(sys.argv[0]).name, *sys.argv[1:])]
    return {"command": shlex.join(words), "commit": commit(), "versions": versions(), "machine": machine()}


def versions() -> dict[str, str]:
    """Of Python and of those PACKAGES that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The processor, its cores, and how busy they are."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {"cpu": model, "cores": os.cpu_count(), "load": load}


def commit() -> str:
    """The commit of the source, with a + where files differ from it; empty outside a repository."""
    here = Path(__file__).parent
    try:
        said = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.stdout.strip() + ("+" if changed else "")


def write_text(path: Path, text: str) -> None:
    """At once or not at all."""
    half = path.with_name(f".{path.name}.part")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)
