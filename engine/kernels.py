"""How this project compiles its inner loops: one typed door to numba.

Every kernel runs without the interpreter lock on one thread and is cached on disk, so that a stage's thread costs the others
nothing and only the first run of an installation compiles. Kernels know arrays and scalars, no objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])

# What may be done to float arithmetic where NaN and infinity must still be recognised.
CAREFUL = frozenset({"contract", "arcp", "nsz"})
# What may be done where every input is known to be finite.
FAST = frozenset({"contract", "arcp", "nsz", "reassoc", "afn", "nnan", "ninf"})


def kernel(fastmath: frozenset[str] = CAREFUL, inline: bool = False) -> Callable[[F], F]:
    """Compile the decorated function on its first call; `inline` merges it into its callers (for small helpers)."""

    def compile_lazily(function: F) -> F:
        compiled: F = numba.njit(
            function,
            cache=True,
            nogil=True,
            fastmath=set(fastmath),
            inline="always" if inline else "never",
        )
        return compiled

    return compile_lazily
