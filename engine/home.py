"""Where files lie that can be made again: LIVEANCHOR_CACHE, or ~/.cache/liveanchor."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """This user's folder; it need not exist yet."""
    return Path(os.environ.get("LIVEANCHOR_CACHE") or Path.home() / ".cache" / "liveanchor")
