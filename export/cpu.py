"""What this processor can do, where it decides how graphs are run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

WANTED = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "bf16", "i8mm")


@cache
def features() -> tuple[str, ...]:
    """Those of WANTED that it has; none where the system does not say (only Linux does, in /proc/cpuinfo)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ()
    for line in text.splitlines():
        name, _, said = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86, Arm
            has = set(said.split())
            return tuple(feature for feature in WANTED if feature in has)
    return ()


def has_bf16() -> bool:
    """Whether it multiplies bf16 in hardware."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(features()))
