"""One of several processes that train together, as torchrun starts them: each keeps the weights that it ends with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from engine.training.train import train

if __name__ == "__main__":
    clip, out = map(Path, sys.argv[1:])
    average = train(
        "autoencoder", [clip], out / "runs", steps=3, batch=1, held_out=1, device="cpu", precision="f32", compiled=False,
        show=False, tell=print,
    )  # fmt: skip
    torch.save(dict(average.named_parameters()), out / f"{os.environ['RANK']}.pt")
