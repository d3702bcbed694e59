"""Rows beside the paper's: what differs from what they are taken against, by how much, and whether the paper saw the same.

The rule: an effect is one where it exceeds twice its standard error, which leaves out a tenth of the frames at a time, in
runs, of both rows at once (`metrics.jackknife`). Below that there is no difference.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.quality.judge import Scores
from bench.quality.metrics import jackknife
from engine import toml
from engine.errors import InputError

COMPARED = ("frechet", "frechet_video", "lmd_face", "lmd_body", "lmd_hands")  # lower is better
BESIDE = ("psnr_person", "psnr_face", "psnr_hands", "change_error")  # told too; no figures of the paper's
ERRORS = 2.0  # standard errors that make an effect
BASE = "full"
KEPT = "judged_at"  # in a row of quality.json that an earlier commit judged
SAME_MODEL = {"windows 16/4": BASE, "full, trained as short": BASE}  # what the paper would have called full

Direction = Literal["better", "worse", "no difference"]


@dataclass(frozen=True)
class RowFields:
    """One table of rows.toml."""

    against: str
    paper: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Effect:
    """One figure of a row, on the frames that it shares with the row that it is taken against."""

    value: float
    other: float
    error: float  # standard, of the difference
    direction: Direction
    paper: Direction | None  # None: the paper does not say

    @property
    def verdict(self) -> str:
        """same, opposite or no difference; empty where the paper does not say."""
        if self.paper is None:
            return ""
        return (
            self.direction
            if self.direction == "no difference"
            else "same"
            if self.direction == self.paper
            else "opposite"
        )


def read_rows() -> dict[str, RowFields]:
    """The rows by name, in their order."""
    path = Path(__file__).with_name("rows.toml")
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: toml.parse(str(path), RowFields, fields, f"{name}.") for name, fields in table.items()}


def read_why(path: Path, rows: Mapping[str, RowFields]) -> dict[str, str]:
    """Reasons by row, written by hand: a TOML file of strings, or nothing where there is none. InputError on other rows."""
    if not path.exists():
        return {}
    try:
        why = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(path), "syntax", "TOML", str(error)) from None
    for name, text in why.items():
        if name not in rows or not isinstance(text, str):
            raise InputError(str(path), name, f"a string for one of {', '.join(rows)}", type(text).__name__)
    return why


def effect(
    name: str, row: Scores, other: Scores, paper: float | None = None, paper_other: float | None = None
) -> Effect:
    """The figure `name` of a row, against another row's."""
    shared = set(row.frames) & set(other.frames)
    a, b = row.of(shared), other.of(shared)
    difference, error = jackknife(lambda at: a.value(name, at) - b.value(name, at), len(shared))
    ours = direction(name, difference, ERRORS * error)
    theirs = None if paper is None or paper_other is None else direction(name, paper - paper_other)
    return Effect(a.value(name), b.value(name), error, ours, theirs)


def direction(name: str, difference: float, least: float = 0.0) -> Direction:
    """What a difference of the figure `name` means; none where it is no larger than `least`."""
    if not math.isfinite(difference) or abs(difference) <= least:
        return "no difference"
    higher_is_better = name.startswith(("psnr", "ssim", "mouth"))
    return "better" if (difference > 0) == higher_is_better else "worse"


def effects(scores: Mapping[str, Scores], rows: Mapping[str, RowFields]) -> dict[str, dict[str, Effect]]:
    """By row and figure; rows that were not measured, or whose other row was not, are not in it."""
    found = {}
    for name in rows:
        against = other_row(name, scores, rows)
        if name in scores and against:
            paper = rows[SAME_MODEL.get(name, name)].paper
            base = rows[SAME_MODEL.get(against, against)].paper
            told = paper if name not in SAME_MODEL else {}
            found[name] = {
                column: effect(column, scores[name], scores[against], told.get(column), base.get(column))
                for column in (*COMPARED, *BESIDE)
            }
    return found


def other_row(name: str, measured: Container[str], rows: Mapping[str, RowFields]) -> str:
    """What a row is taken against: as rows.toml says, or the full model where that was not measured; empty for itself."""
    against = rows[name].against
    if against and against not in measured:
        against = BASE
    return against if against in measured and against != name else ""


@dataclass(frozen=True)
class Kept:
    """Rows of an earlier quality.json, whose weights need not be there any more."""

    figures: dict[str, dict[str, Any]]
    effects: dict[str, dict[str, Effect]]

    @classmethod
    def read(cls, file: Path, but: Container[str]) -> Kept:
        """All rows of `file` but these. They keep the commit that they were judged at. InputError where it is no such file."""
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"), object_hook=_meant)
            chosen = {name: dict(row) for name, row in earlier["rows"].items() if name not in but}
            for row in chosen.values():
                row.setdefault(KEPT, earlier["commit"])
            effects = {
                name: {c: Effect(e["value"], e["other"], e["error"], e["direction"], e["paper"]) for c, e in by.items()}
                for name, by in earlier["effects"].items()
                if name in chosen
            }
        except OSError as error:
            raise InputError(str(file), "file", "an earlier quality.json", error.strerror or str(error)) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(str(file), "rows", "an earlier quality.json", repr(error)[:120]) from None
        return cls(chosen, effects)


def markdown(
    figures: Mapping[str, Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Effect]],
    rows: Mapping[str, RowFields],
    why: Mapping[str, str],
) -> str:
    """The table of rows, and below it one of the directions. `figures`: "rows" of quality.json."""
    names = {
        "frechet": "FD",
        "frechet_video": "FD, video",
        "lmd_face": "face",
        "lmd_body": "body",
        "lmd_hands": "hands",
    }
    head = (
        "| row | frames | "
        + " | ".join(names.values())
        + " | person dB | face dB | hands dB | change error | paper: FID, FVD, face/body/hand |"
    )
    lines = [head, "| --- " * (head.count("|") - 1) + "|"]
    for name, fields in rows.items():
        said = ", ".join(f"{fields.paper[c]:g}" if c in fields.paper else "-" for c in COMPARED) if fields.paper else ""
        if name in figures:
            f = figures[name]
            kept = f", judged at {f[KEPT]}" if KEPT in f else ""
            cells = [f"{f['frames']}{kept}", *(shown(f[c]) for c in (*COMPARED, *BESIDE))]
        else:
            cells = ["not measured", *[""] * (len(COMPARED) + len(BESIDE))]
        lines.append(f"| {name} | {' | '.join(cells)} | {said} |")
    lines += [
        "",
        "| row | against | " + " | ".join(names.values()) + " | person dB | face dB | hands dB | change error | why |",
    ]
    lines.append("| --- " * (lines[-1].count("|") - 1) + "|")
    for name, by_column in found.items():
        cells = [told(e) for e in by_column.values()]
        lines.append(f"| {name} | {other_row(name, figures, rows)} | {' | '.join(cells)} | {why.get(name, '')} |")
    return "\n".join(lines) + "\n"


def told(e: Effect) -> str:
    """An effect as a cell: the difference, its standard error, and what it means."""
    if not math.isfinite(e.value - e.other):
        return "-"
    said = f"{e.value - e.other:+.3g} ± {e.error:.2g}, {e.direction}"
    return f"{said}; paper {e.paper}: **{e.verdict}**" if e.paper else said


def _meant(table: dict[str, Any]) -> dict[str, Any]:
    """A table of JSON, with NaN for null: figures without a meaning, but a verdict of the paper's may be missing."""
    return {key: math.nan if value is None and key != "paper" else value for key, value in table.items()}


def shown(value: float) -> str:
    """Three significant digits, or a dash."""
    return (
        f"{value:.3g}" if math.isfinite(value) and abs(value) < 100 else f"{value:.1f}" if math.isfinite(value) else "-"
    )
