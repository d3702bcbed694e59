"""How long body and mesh condition take on one core, by stage, beside pyrender on the same mesh in the same run.

    python -m bench.condition [--repeats N] [--no-pyrender]

The mesh is the stand-in (10,475 vertices, 20,908 faces), its upper body filling 512x512 pixels; every repeat has
another pose. All of it runs on one thread: `cpu` is that thread's own time, in milliseconds, and `wall` the clock on
the wall, which also counts what the machine's other processes took.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import pyrender_reference
from engine.body import Body, BodyModel
from engine.camera import look_at
from engine.condition import Condition, Style
from engine.rasterizer import Rasterizer, attribute_planes
from engine.shading import Scene, vertex_normals
from engine.skeleton import EXPRESSION_DIMS, POSE_DIMS, joint_slice
from engine.standin import EXPRESSION_NAMES, standin_path

SIZE = 512
POSES = 32


def gestures(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Poses (N, 165) and expressions (N, 100) of somebody who talks with both hands; always the same ones."""
    rng = np.random.default_rng(0)
    poses, expressions = np.zeros((count, POSE_DIMS), np.float32), np.zeros((count, EXPRESSION_DIMS), np.float32)
    for joint, around in {
        "left_shoulder": (0.0, -0.3, -1.0), "right_shoulder": (0.0, 0.3, 1.0), "left_elbow": (0.2, -1.4, 0.0),
        "right_elbow": (0.2, 1.4, 0.0), "head": (0.0, 0.0, 0.0), "jaw": (0.15, 0.0, 0.0),
    }.items():  # fmt: skip
        poses[:, joint_slice(joint)] = around + rng.normal(0, 0.12, (count, 3))
    expressions[:, : len(EXPRESSION_NAMES)] = rng.uniform(0, 1.5, (count, len(EXPRESSION_NAMES)))
    return poses, expressions


def timed(action: Callable[[int], object], repeats: int) -> dict[str, float]:
    """Milliseconds of `action(i)`. The first rounds, which compile, do not count."""
    for i in range(3):
        action(i)
    cpu, wall = np.empty(repeats), np.empty(repeats)
    for i in range(repeats):
        wall_start, cpu_start = time.perf_counter(), time.thread_time()
        action(i)
        cpu[i], wall[i] = time.thread_time() - cpu_start, time.perf_counter() - wall_start
    return {
        f"{name}_{key}_ms": round(float(np.quantile(seconds, share)) * 1e3, 3)
        for name, seconds in (("cpu", cpu), ("wall", wall))
        for key, share in (("p50", 0.5), ("p95", 0.95))
    }


def measure(body: Body, repeats: int, peer: bool) -> dict[str, Any]:
    """All figures, as they are printed."""
    camera = look_at((0.0, 0.1, 1.55), (0.0, 0.1, 0.0), SIZE, 0.5)
    poses, expressions = gestures(POSES)
    origin, skinned = np.zeros(3, np.float32), np.empty_like(body.template)
    meshes = [body.vertices(p, e, origin) for p, e in zip(poses, expressions, strict=True)]
    stages = {
        "body": timed(lambda i: body.vertices(poses[i % POSES], expressions[i % POSES], origin, skinned), repeats)
    }

    rasterizer = Rasterizer(body.faces, len(body.template), SIZE, SIZE)
    raster = rasterizer.raster
    stages["raster"] = timed(lambda i: rasterizer.draw(meshes[i % POSES], camera), repeats)
    rasterizer.draw(meshes[0], camera)
    used, attributes = np.zeros(len(body.template), np.bool_), np.zeros((len(body.template), 4), np.float32)
    planes = np.zeros((len(body.faces), 4, 3), np.float32)

    def normals(_: int) -> None:
        vertex_normals(meshes[0], body.faces, raster, camera, used, attributes)
        attribute_planes(body.faces, raster, attributes, planes)

    stages["vertex normals"] = timed(normals, repeats)
    whole = {}
    styles: tuple[Style, ...] = ("normals", "authors")
    for style in styles:
        condition, out = Condition(body, camera, style), np.empty((SIZE, SIZE, 3), np.uint8)
        whole[style] = timed(partial(_render, condition, meshes, out), repeats)
        rest = whole[style]["cpu_p50_ms"] - stages["raster"]["cpu_p50_ms"] - stages["vertex normals"]["cpu_p50_ms"]
        stages[f"shade {style} (the rest)"] = {"cpu_p50_ms": round(rest, 3)}
    result = {
        "faces": len(body.faces), "vertices": len(body.template), "size": SIZE,
        "covered_pixels": int(raster.covered().sum()), "repeats": repeats, "condition": whole, "stages": stages,
    }  # fmt: skip
    if peer:
        result["pyrender"] = against_pyrender(body, meshes[0], whole["authors"]["wall_p50_ms"])
    return result


def _render(condition: Condition, meshes: list[np.ndarray], out: np.ndarray, i: int) -> None:
    condition.render(meshes[i % POSES], out)


def against_pyrender(body: Body, vertices: np.ndarray, ours_ms: float) -> dict[str, Any]:
    """pyrender's times for one mesh a frame, and how many of our conditions fit into one of them."""
    reason = pyrender_reference.missing()
    if reason:
        return {"skipped": reason}
    camera = look_at((0.0, 0.1, 1.55), (0.0, 0.1, 0.0), SIZE, 0.5)
    seconds = pyrender_reference.render(vertices, body.faces, camera, Scene(), repeats=20)["seconds"][2:]
    median = float(np.median(seconds) * 1e3)
    return {"wall_p50_ms": round(median, 1), "wall_p50_ratio": round(median / ours_ms, 1)}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "numba", "llvmlite")}
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {"cpu": model, "cores": os.cpu_count(), "load": load, "python": platform.python_version(), **versions}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--no-pyrender", action="store_true", help="leave the peer out")
    options = parser.parse_args()
    body = BodyModel.load(standin_path()).shaped()
    figures = {"machine": machine(), **measure(body, options.repeats, not options.no_pyrender)}
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
