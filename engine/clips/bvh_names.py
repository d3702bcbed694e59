"""What motion-capture programs call the joints of SMPL-X in their BVH files, and which of them wrote a given file.

Names are compared without case, punctuation and the namespace before a colon (`mixamorig:`). Spine and neck joints are
not listed: how many there are differs even within one program, so the retargeting reads them off the hierarchy.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import InputError
from engine.skeleton import JOINT_NAMES

ESSENTIAL = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in ("hip", "knee", "shoulder", "elbow"))

# Ours to theirs, for one side; {Side} is Left or Right. A tuple lists spellings.
_HUMAN_IK = {
    "collar": "{Side}Shoulder", "shoulder": "{Side}Arm", "elbow": "{Side}ForeArm", "wrist": "{Side}Hand",
    "hip": "{Side}UpLeg", "knee": "{Side}Leg", "ankle": "{Side}Foot", "foot": "{Side}ToeBase",
}  # fmt: skip
_HUMAN_IK_FINGERS = {
    f"{finger.lower()}{i}": f"{{Side}}Hand{finger}{i}"
    for finger in ("Index", "Middle", "Pinky", "Ring", "Thumb")
    for i in (1, 2, 3)
}
_NUMBERED = {"thumb": "1", "index": "2", "middle": "3", "ring": "4", "pinky": "5"}
_ORDINAL = {"thumb": "First", "index": "Second", "middle": "Third", "ring": "Fourth", "pinky": "Fifth"}


def _phalanges(stem: Mapping[str, str], prefix: str, bones: Sequence[str]) -> dict[str, str]:
    """Finger joints named by their bones: metacarpal, proximal, middle, distal; a thumb has no middle one."""
    metacarpal, proximal, middle, distal = bones
    return {
        f"{finger}{i}": f"{{Side}}{prefix}{word}{bone}"
        for finger, word in stem.items()
        for i, bone in enumerate((metacarpal, proximal, distal) if finger == "thumb" else (proximal, middle, distal), 1)
    }


_SIDES: dict[str, dict[str, str]] = {
    "cmu": _HUMAN_IK,  # its fingers are one joint for all, and noise
    "mixamo": {**_HUMAN_IK, **_HUMAN_IK_FINGERS},
    "rokoko": {
        **_HUMAN_IK, "hip": "{Side}Thigh", "knee": "{Side}Shin", "foot": "{Side}Toe",
        **_phalanges(_NUMBERED, "Finger", ("Metacarpal", "Proximal", "Medial", "Distal")),
    },
    "xsens": {
        "collar": "{Side}Shoulder", "shoulder": "{Side}UpperArm", "elbow": "{Side}ForeArm", "wrist": "{Side}Hand",
        "hip": "{Side}UpperLeg", "knee": "{Side}LowerLeg", "ankle": "{Side}Foot", "foot": "{Side}Toe",
        **_phalanges(_ORDINAL, "", ("MC", "PP", "MP", "DP")),
    },
    "joints": {  # Xsens MVN's own BVH export among others: called after the joints, not the bones
        "collar": "{Side}Collar", "shoulder": "{Side}Shoulder", "elbow": "{Side}Elbow", "wrist": "{Side}Wrist",
        "hip": "{Side}Hip", "knee": "{Side}Knee", "ankle": "{Side}Ankle", "foot": "{Side}Toe",
    },
}  # fmt: skip
_MIDDLE = {"pelvis": ("Hips", "Pelvis", "Hip"), "head": ("Head",)}


def tables() -> dict[str, dict[str, tuple[str, ...]]]:
    """For each naming, our joint names to theirs, in order of preference."""
    return {
        naming: {
            **_MIDDLE,
            **{
                f"{side.lower()}_{ours}": (theirs.format(Side=side),)
                for side in ("Left", "Right")
                for ours, theirs in names.items()
            },
        }
        for naming, names in _SIDES.items()
    }


def match(source: str, theirs: Sequence[str]) -> tuple[str, dict[str, int]]:
    """The naming that fits most of the names `theirs`, and our joint names to indices of theirs.

    InputError where none has the joints that retargeting needs.
    """
    places: dict[str, int] = {}
    for index, name in enumerate(theirs):
        places.setdefault(_plain(name), index)
    best, found = "", dict[str, int]()
    for naming, table in tables().items():
        hits = {}
        for ours, spellings in table.items():
            known = [places[_plain(name)] for name in spellings if _plain(name) in places]
            if known:
                hits[ours] = known[0]
        if len(hits) > len(found):
            best, found = naming, hits
    _require(source, found, "joint names of " + ", ".join(tables()))
    return best, found


def read_bone_map(path: Path, source: str, theirs: Sequence[str]) -> dict[str, int]:
    """Our joint names to indices of `theirs` (the joints of the BVH file `source`) from a TOML file of lines like
    `left_shoulder = "LeftArm"`. InputError names the line's key where either name does not exist."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(str(path), "file", "a TOML file", "no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(str(path), "syntax", "TOML", str(error)) from None
    found = {}
    for ours, name in table.items():
        if ours not in JOINT_NAMES:
            raise InputError(str(path), ours, "a joint of SMPL-X such as left_shoulder", "an unknown name")
        if name not in theirs:
            raise InputError(
                str(path), ours, f"a joint of {source}", repr(name)[:60], f"it has {', '.join(theirs)[:300]}"
            )
        found[ours] = theirs.index(name)
    _require(source, found, f"the joints that {path} must name")
    return found


def _require(source: str, found: Mapping[str, int], expected: str) -> None:
    missing = [name for name in ESSENTIAL if name not in found]
    if missing:
        raise InputError(
            source, "joint names", expected, f"none for {', '.join(missing)}",
            "name them in a TOML bone map, lines like left_shoulder = \"LeftArm\"",
        )  # fmt: skip


def _plain(name: str) -> str:
    name = re.sub(r"^mixamorig\d*_?", "", name.rpartition(":")[2], flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]", "", name.lower())
