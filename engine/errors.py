"""The one error that bad input raises: a single line that says where, what was expected and what was got."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)  # not frozen: Python sets a traceback on it
class InputError(Exception):
    """Bad input from outside (a file, an option, a message).

    `where` is a file or an address, `field` the part of it, `expected` and `got` short phrases. `hint` says what to do.
    """

    where: str
    field: str
    expected: str
    got: str
    hint: str = ""

    def __str__(self) -> str:
        line = f"{self.where}: {self.field}: expected {self.expected}, got {self.got}"
        line = f"{line} ({self.hint})" if self.hint else line
        return "".join(c if c.isprintable() else "?" for c in line)  # names from files may hold anything
