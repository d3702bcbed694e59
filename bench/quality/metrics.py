"""Figures on pictures and features. Pure functions; pictures are (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.kernels import FAST, kernel

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal to noise over all three channels, in dB; 255 is the peak. 138 dB where nothing differs."""
    error = np.square(image.astype(np.float32) - truth).mean(dtype=np.float64)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean structural similarity of the luma (Wang et al. 2004): Gaussian windows of 11x11, sigma 1.5, data range 255.

    Only windows that lie wholly within the pictures count. NaN where there is none.
    """
    if min(image.shape[:2]) < WINDOW:
        return float("nan")
    a, b = image @ LUMA, truth @ LUMA
    ma, mb, aa, bb, ab = (_smooth(x) for x in (a, b, a * a, b * b, a * b))
    structure = (2 * (ab - ma * mb) + C2) / (aa - ma * ma + bb - mb * mb + C2)
    return float(((2 * ma * mb + C1) / (ma * ma + mb * mb + C1) * structure).mean())


def _smooth(x: np.ndarray) -> np.ndarray:
    """(H, W) to (H - 10, W - 10): the mean under the Gaussian window."""
    taps = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    out = np.empty((x.shape[0] - WINDOW + 1, x.shape[1] - WINDOW + 1))
    _under_window(x, taps / taps.sum(), out)
    return out


@kernel(FAST)
def _under_window(x: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    row = np.empty(x.shape[1])
    for i in range(out.shape[0]):
        row[:] = 0.0
        for k in range(len(taps)):
            for j in range(len(row)):
                row[j] += taps[k] * x[i + k, j]
        for j in range(out.shape[1]):
            total = 0.0
            for k in range(len(taps)):
                total += taps[k] * row[j + k]
            out[i, j] = total


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance (Heusel et al. 2017, squared as there) of Gaussians fitted to features (N, D) and (M, D)."""
    mean = a.mean(axis=0) - b.mean(axis=0)
    ca, cb = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a.astype(np.float64), b.astype(np.float64)))
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cb @ root), 0)).sum()
    return float(max(mean @ mean + np.trace(ca) + np.trace(cb) - 2 * cross, 0.0))


def stacked(features: np.ndarray, follows: np.ndarray, length: int) -> np.ndarray:
    """Features (N, D) of every `length` pictures in a row: (n, length * D); `follows` (N,): a picture follows the one before."""
    run = np.zeros(len(features), int)  # how many pictures in a row end here
    for i in range(len(features)):
        run[i] = run[i - 1] + 1 if i and follows[i] else 1
    ends = np.nonzero(run >= length)[0]
    rows = ends[:, None] + np.arange(1 - length, 1)  # (n, length)
    return np.asarray(features[rows].reshape(len(ends), length * features.shape[1]))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, over the pairs that are finite; NaN where one of them does not vary."""
    good = np.isfinite(a) & np.isfinite(b)
    a, b = a[good].astype(np.float64), b[good].astype(np.float64)
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def jackknife(statistic: Callable[[np.ndarray], float], count: int, blocks: int = 10) -> tuple[float, float]:
    """`statistic` of the indices 0 to `count`, and its standard error by leaving out one of `blocks` runs of them at a time.

    Neighbouring frames are alike, so whole runs are left out (delete-a-group jackknife, Kott 2001).
    """
    every = np.arange(count)
    groups = [group for group in np.array_split(every, min(blocks, count)) if len(group)]
    left = np.array([statistic(np.setdiff1d(every, group)) for group in groups])
    n = len(left)
    return statistic(every), float(np.sqrt((n - 1) / n * np.square(left - left.mean()).sum()))
