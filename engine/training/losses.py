"""Losses and figures on pictures (B, 3, H, W) in [-1, 1], with a weight per pixel (B, 1, H, W)."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]  # pictures out and true, weight: a loss


def weighted(error: Tensor, weight: Tensor) -> Tensor:
    """The mean of `error` (B, C, H, W) under `weight` (B, 1, H, W)."""
    return (error * weight).sum() / (weight.sum() * error.shape[1]).clamp_min(1e-6)


def gradient_loss(d: Tensor, weight: Tensor) -> Tensor:
    """L1 of the horizontal and vertical differences of an error `d`: edges and texture, which plain L1 blurs."""
    dx, dy = (d[..., 1:] - d[..., :-1]).abs(), (d[..., 1:, :] - d[..., :-1, :]).abs()
    return weighted(dx, weight[..., 1:]) + weighted(dy, weight[..., 1:, :])


def ssim_map(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    """Structural similarity (Wang et al. 2004) over box windows, pictures in [-1, 1]: (B, C, H-6, W-6)."""
    moments = torch.cat([a, b, a * a + b * b, a * b], dim=1)
    moments = F.avg_pool2d(F.avg_pool2d(moments, (1, window), stride=1), (window, 1), stride=1)
    ma, mb, squares, product = moments.chunk(4, dim=1)
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    mean_squares, mean_product = ma * ma + mb * mb, ma * mb
    return ((2 * mean_product + c1) * (2 * (product - mean_product) + c2)) / (
        (mean_squares + c1) * (squares - mean_squares + c2)
    )


def picture_loss(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """L1, gradients and the structure of the brightness: what every stage that sees pixels minimises."""
    a, b = a.float().contiguous(), b.contiguous()  # planes: a weight then meets its pixels in one sweep
    d = a - b
    structure = weighted(1 - ssim_map(a.mean(1, keepdim=True), b.mean(1, keepdim=True)), weight[..., 3:-3, 3:-3])
    return weighted(d.abs(), weight) + gradient_loss(d, weight) + 0.4 * structure


def change_loss(a: Tensor, b: Tensor, weight: Tensor, frames: int) -> Tensor:
    """L1 of the error's change from each frame to the next: what flickers or swims. Windows (N, frames, 3, H, W) follow each
    other in the batch, weights (N, frames, 1, H, W) likewise.
    """
    error, counts = (x.reshape(-1, frames, *x.shape[1:]) for x in (a.float() - b, weight))
    change, both = (error[:, 1:] - error[:, :-1]).abs(), torch.minimum(counts[:, 1:], counts[:, :-1])
    return weighted(change.flatten(0, 1), both.flatten(0, 1))


def criterion(compiled: bool) -> Criterion:
    """`picture_loss`; compiled (a minute once, then several times as fast) if asked for and there is a C++ compiler."""
    if compiled and shutil.which("g++"):
        return torch.compile(picture_loss)  # type: ignore[no-any-return]
    return picture_loss


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal to noise in dB of pictures in [-1, 1]."""
    error = float(((a.clamp(-1, 1) - b) ** 2).mean()) / 4
    return float(-10 * Tensor([max(error, 1e-10)]).log10())
