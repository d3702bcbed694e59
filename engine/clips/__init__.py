"""Recorded motion from files, converted at the door: `read_clip` for every format, `write_clip` for our own."""

from __future__ import annotations

from pathlib import Path

from engine.clips import amass, beat2, motionx, show, talkshow
from engine.clips.bvh import parse_bvh
from engine.clips.bvh_names import match, read_bone_map
from engine.clips.files import npz_names, read_bytes, read_npy
from engine.clips.hands import HandSpace
from engine.clips.retarget import retarget
from engine.errors import InputError
from engine.pose import PoseClip

__all__ = ["FORMATS", "HandSpace", "read_clip", "write_clip"]

FORMATS = ("talkshow", "show", "beat2", "amass", "motionx", "bvh")


def read_clip(
    path: Path, *, format: str | None = None, bone_map: Path | None = None, hands: HandSpace | None = None
) -> PoseClip:
    """The clip in `path`, in the project's convention.

    `format` is one of FORMATS, by default what the content says. `bone_map` is a TOML file that names the joints of a
    BVH file. `hands` is what TalkSHOW's and SHOW's hand poses are relative to; default: relaxed hands of our own.
    InputError where the file is not a valid clip, in one line that says what is wrong with it.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise InputError(str(path), "format", f"one of {', '.join(FORMATS)}", repr(format))
    format = format or detect_format(path)
    if bone_map is not None and format != "bvh":
        raise InputError(str(path), "bone map", "a BVH file", f"a {format} file")
    match format:
        case "talkshow":
            return talkshow.read_talkshow(path, hands)
        case "show":
            return show.read_show(path, hands)
        case "beat2":
            return beat2.read_beat2(path)
        case "amass":
            return amass.read_amass(path)
        case "motionx":
            return motionx.read_motionx(path)
        case _:
            return read_bvh(path, bone_map)


def write_clip(path: Path, clip: PoseClip) -> None:
    """Write `clip` as a BEAT2-style .npz, whole or not at all. InputError where `path` cannot be written."""
    beat2.write_beat2(Path(path), clip)


def read_bvh(path: Path, bone_map: Path | None = None) -> PoseClip:
    """The clip in a BVH file; its joints by `bone_map`, or by the naming that fits best."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(str(path), "file", "UTF-8 text", f"byte {error.start} is not") from None
    bvh = parse_bvh(str(path), text)
    names = bvh.names()
    joints = match(str(path), names)[1] if bone_map is None else read_bone_map(bone_map, str(path), names)
    return retarget(bvh, joints)


def detect_format(path: Path) -> str:
    """Which of FORMATS the file at `path` is, by its first bytes, its extension, its keys and its shape."""
    start = read_bytes(path)[:64].removeprefix(b"\xef\xbb\xbf")
    extension = path.suffix.lower()
    if start.startswith(b"\x93NUMPY"):
        shape = read_npy(path).shape
        widths = {talkshow.DIMS: "talkshow", motionx.DIMS: "motionx"}
        if not shape or shape[-1] not in widths:
            expected = f"shape (T, {talkshow.DIMS}) of TalkSHOW or (T, {motionx.DIMS}) of Motion-X"
            raise InputError(str(path), "array", expected, f"shape {shape}")
        return widths[shape[-1]]
    if start.startswith(b"PK") and extension not in (".pkl", ".pt", ".pth"):
        names = npz_names(path)
        if "expressions" in names:
            return "beat2"
        if "poses" in names or "root_orient" in names:
            return "amass"
        expected = "the arrays of BEAT2 (poses, expressions) or AMASS (poses or root_orient)"
        raise InputError(str(path), "arrays", expected, ", ".join(sorted(names))[:80] or "none")
    if start.lstrip().startswith(b"HIERARCHY") or extension == ".bvh":
        return "bvh"
    if start.startswith((b"\x80", b"PK")) or extension == ".pkl":
        return "show"
    raise InputError(
        str(path), "file", "a clip: .npz, .npy, .pkl or .bvh", f"{extension or 'no'} extension and unknown content"
    )
