"""How this project compiles its inner loops: one typed door to numba.

Every kernel runs without the interpreter lock on one thread and is cached on disk, so that a stage's thread costs the
others nothing and only the first run of an installation compiles. Kernels know arrays and scalars, no objects.
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


def kernel(fastmath: frozenset[str] = CAREFUL) -> Callable[[F], F]:
    """Compile the decorated function on its first call."""

    def compile_lazily(function: F) -> F:
        # A division that may raise is a branch, and a branch keeps a loop from becoming vector instructions.
        compiled: F = numba.njit(function, cache=True, nogil=True, fastmath=set(fastmath), error_model="numpy")
        return compiled

    return compile_lazily
