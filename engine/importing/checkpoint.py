"""One network of a checkpoint: config.json and weights, read key by key, so that nothing is made up and nothing is run.

Weights are a .safetensors, or torch's .bin, of which only tensors are read (torch.load with weights_only). They stay in the
file until they are converted, one after the other: a full-size network needs its size in half precision, and no more.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.errors import InputError

CONFIG = "config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def described(kind: Any, folder: Path) -> Any:
    """The diffusers network of class `kind` that FOLDER/config.json describes, without weights."""
    file = folder / CONFIG
    if not folder.is_dir():
        raise InputError(str(folder), "network", f"a folder with a {kind.__name__}", "no such folder")
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(file), "file", f"the fields of a {kind.__name__}", _line(error)) from None
    named = fields.get("_class_name", kind.__name__) if isinstance(fields, dict) else type(fields).__name__
    if named != kind.__name__:
        raise InputError(str(file), "_class_name", kind.__name__, str(named))
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it speaks of fields that it does not know
    try:
        with torch.device("meta"):
            return kind.from_config(fields)
    except Exception as error:  # of many kinds: whatever a wrong field leads to
        raise InputError(str(file), "fields", f"those of a {kind.__name__}", _line(error)) from None
    finally:
        logging.set_verbosity(level)


def fill(network: nn.Module, folder: Path, dtype: torch.dtype = torch.half) -> None:
    """Give a network on the meta device the weights in `folder`, as `dtype`; InputError unless they are exactly its own."""
    file, weights = _read(folder)
    _check(file, weights, {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()})
    for key in list(weights):
        weights[key] = weights[key].to(dtype)
        if not torch.isfinite(weights[key]).all():
            kind, most = ("half", 65504) if dtype == torch.half else ("single", 3.4e38)
            raise InputError(str(file), key, f"numbers of {kind} precision", f"NaN, infinity, or beyond {most}")
    network.load_state_dict(weights, assign=True)
    network.eval().requires_grad_(False)


def _read(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise InputError(str(folder), "weights", " or ".join(WEIGHTS), "neither")
    try:
        if file.suffix == ".safetensors":
            return file, load_file(file)
        # Files of torch's zip form are mapped; the older form is read at once.
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # of many kinds
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        expected, got = ("tensors alone", f"a pickle that calls {code[1]}") if code else ("whole tensors", _line(error))
        raise InputError(str(file), "weights", expected, got) from None
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise InputError(str(file), "weights", "tensors by name", type(weights).__name__)
    return file, dict(weights)


def _check(file: Path, weights: dict[str, Tensor], wanted: dict[str, tuple[int, ...]]) -> None:
    for what, keys in (("missing", wanted.keys() - weights.keys()), ("unexpected", weights.keys() - wanted.keys())):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InputError(str(file), "weights", f"those of its {CONFIG}", f"{what} {min(keys)}{more}")
    for key, shape in wanted.items():
        tensor = weights[key]
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise InputError(
                str(file), key, f"floats of shape {shape}", f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
