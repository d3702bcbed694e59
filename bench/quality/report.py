"""quality.md: what is asked of the bundled avatar and what was measured, by part, and the rows beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.quality.judge import COMPONENTS, IN_A_ROW, Scores
from bench.quality.tables import BASE, ERRORS, Effect, RowFields, effect, shown
from bench.quality.tables import markdown as rows_markdown

FIGURES = {
    "psnr_picture": "picture, dB", "psnr_person": "person, dB", "ssim_person": "person, SSIM", "psnr_head": "head's box, dB", "psnr_face": "face crop, dB",
    "psnr_hands": "hands, dB", "psnr_hands_tight": "hands, tight boxes, dB", "psnr_left_hand": "left hand, dB", "psnr_right_hand": "right hand, dB",
    "lmd_face": "face landmarks, px", "lmd_body": "body joints, px", "lmd_hands": "hand joints, px",
    "shift_face": "face, painted to true, px", "shift_body": "body, painted to true, px", "shift_hands": "hands, painted to true, px",
    "frechet": "Frechet distance", "frechet_video": "Frechet distance, video", "change_error": "change error, of 255",
    "still_change": "change of still pixels, of 255", "mouth_correlation": "mouth opening, correlation",
    "mouth_correlation_mesh": "mouth opening, correlation with the mesh's",
}  # fmt: skip

METHOD = f"""\
- Truth is what the studio rendered; nothing is resampled or encoded. Painted pictures come from the live engine, root motion as filmed.
- PSNR over RGB, the mean over frames; SSIM of the luma (Wang et al. 2004; Gaussian 11x11, sigma 1.5, data range 255), on the person's box.
  Face crop: aligned, 256 px, without the 20 px that its blending erodes. Hands: their crops
  as far as the picture shows them, and the tighter boxes of their joints.
- Landmarks are found by a small network that was trained on true pictures of the training split alone, in crops that are snapped to
  a coarse grid. Distances are to the projected mesh's, in pixels of 512. The floor is its error on the true
  held-out pictures; "mean place" what their mean place in these crops would score without looking.
- "Frechet distance" is the Frechet distance in our landmark network's features; not comparable with published FID. "Video" is the same
  over stacks of {IN_A_ROW} consecutive pictures, {COMPONENTS} principal directions each; not comparable with published FVD.
- Change error: |(painted change) - (true change)| from picture to picture, mean over the person's box. Change of still pixels: where
  the truth does not change at all.
- An effect is a difference of more than {ERRORS:g} standard errors (jackknife over tenths of the frames, of both rows at once).
"""


@dataclass(frozen=True)
class Demand:
    """One thing that is asked for."""

    what: str
    got: str
    good: bool | None  # None: not measured


def demands(result: Mapping[str, Any], scores: Mapping[str, Scores]) -> Iterator[Demand]:
    """What issue by issue was asked of the bundled avatar on held-out frames."""
    every, floor = result["parts"]["all"], result["floor_px"]["all"]
    for name, least, what in (
        ("psnr_person", 30.0, "person's box, PSNR >= 30 dB"), ("ssim_person", 0.95, "person's box, SSIM >= 0.95"),
        ("psnr_face", 30.0, "face crop, PSNR >= 30 dB"), ("psnr_hands", 26.0, "hand crops, PSNR >= 26 dB"),
    ):  # fmt: skip
        more = f" (tight boxes: {shown(every['psnr_hands_tight'])})" if name == "psnr_hands" else ""
        yield Demand(what, shown(every[name]) + more, every[name] >= least)
    yield _lower("face crop lower without face enhancement", "psnr_face", "without face enhancement", BASE, scores)
    for region in ("face", "body", "hands"):
        got, own = every[f"lmd_{region}"], floor[region]
        yield Demand(
            f"{region} landmarks within 2x of the floor",
            f"{shown(got)} px, floor {shown(own)} px: {got / own:.2f}x",
            got <= 2 * own,
        )
    still = result["still_pose_change"]
    yield Demand("held pose, change <= 0.6/255", shown(still), still <= 0.6)
    for row in ("windows 16/4", "live, one frame of context", "live, bank"):
        what = f"change error lower than frame by frame: {row}"
        yield _lower(what, "change_error", row, "without temporal denoising", scores)
    talk = next((f for name, f in result["parts"].items() if name.endswith("talk")), None)
    mouth = talk["mouth_correlation"] if talk else math.nan
    yield Demand(
        "mouth opening against the truth on the talk, correlation >= 0.9",
        shown(mouth),
        None if math.isnan(mouth) else mouth >= 0.9,
    )


def _lower(what: str, name: str, row: str, other: str, scores: Mapping[str, Scores]) -> Demand:
    if row not in scores or other not in scores:
        return Demand(what, "-", None)
    e = effect(name, scores[row], scores[other])
    return Demand(
        what, f"{shown(e.value)} against {shown(e.other)} ± {e.error:.2g}", e.other - e.value > ERRORS * e.error
    )


def markdown(
    result: Mapping[str, Any],
    scores: Mapping[str, Scores],
    found: Mapping[str, Mapping[str, Effect]],
    rows: Mapping[str, RowFields],
    why: Mapping[str, str],
) -> str:
    """The whole file; `found`: the rows' effects."""
    machine = result["machine"]
    lines = [
        "# Quality of the avatar on held-out frames", "",
        f"`{result['command']}`, commit {result['commit']}, seed {result['seed']}, {machine['cpu']}, {machine['cores']} cores. "
        "Everything below is printed from `quality.json`; reasons stand in `quality_why.toml`.", "",
        "## Asked and measured", "", "| asked | measured | |", "| --- | --- | --- |",
    ]  # fmt: skip
    signs = {True: "yes", False: "**no**", None: "not measured"}
    lines += [f"| {d.what} | {d.got} | {signs[d.good]} |" for d in demands(result, scores)]
    parts = result["parts"]
    counts = {"all": sum(result["frames"].values()), **result["frames"]}
    lines += ["", "## By part", "", "| figure | " + " | ".join(f"{name} ({counts[name]})" for name in parts) + " |"]
    lines.append("| --- " * (len(parts) + 1) + "|")
    lines += [f"| {label} | {' | '.join(shown(f[name]) for f in parts.values())} |" for name, label in FIGURES.items()]
    lines += [
        f"| {label}: {region}, px | {' | '.join(shown(result[key][name][region]) for name in parts)} |"
        for key, label in (("floor_px", "floor"), ("blind_px", "mean place"))
        for region in ("face", "body", "hands")
    ]
    lines += [
        "",
        "## The paper's rows",
        "",
        rows_markdown(result["rows"], found, rows, why),
        "## How it was measured",
        "",
        METHOD,
    ]
    return "\n".join(lines)
