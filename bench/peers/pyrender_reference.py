"""The authors' mesh condition as pyrender draws it, for tests and benchmarks: slow, and what ours must equal.

It is a program of its own, because an OpenGL context is bound to its thread and its platform is chosen at import:

    python -m bench.peers.pyrender_reference IN.npz OUT.npz [REPEATS]

IN: vertices (V, 3), faces (F, 3), the fields of `engine.camera.Camera` and those of `engine.shading.Scene`.
OUT: color (H, W, 3) uint8 (4 samples a pixel), depth (H, W) float32 metres, silhouette (H, W) bool (one sample, at the
pixel's centre), seconds (REPEATS,): upload, draw and read back of one new mesh.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from engine.camera import Camera
from engine.shading import Scene

PLATFORMS = ("egl", "osmesa")


def missing() -> str | None:
    """Why the reference cannot run here, or None."""
    for module in ("pyrender", "trimesh", "OpenGL"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    return None


def render(
    vertices: np.ndarray, faces: np.ndarray, camera: Camera, scene: Scene, repeats: int = 1
) -> dict[str, np.ndarray]:
    """Draw a mesh in a process of its own: the arrays of OUT. RuntimeError where neither EGL nor OSMesa works."""
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, vertices=vertices, faces=faces, **vars(camera), **asdict(scene))
        for platform in PLATFORMS:
            run = subprocess.run(
                [sys.executable, "-m", "bench.peers.pyrender_reference", str(source), str(target), str(repeats)],
                env=os.environ | {"PYOPENGL_PLATFORM": platform}, cwd=Path(__file__).resolve().parents[2],
                capture_output=True, check=False, text=True, timeout=300,
            )  # fmt: skip
            if run.returncode == 0:
                with np.load(target) as out:
                    return {key: out[key] for key in out.files}
            failures.append(f"{platform}: {' '.join(run.stderr.strip().splitlines()[-1:])}")
    raise RuntimeError("; ".join(failures))


def _pyrender() -> Any:
    # pyrender still says np.infty, which numpy 2 no longer has.
    if not hasattr(np, "infty"):
        np.infty = np.inf  # type: ignore[attr-defined]
    return importlib.import_module("pyrender")


def _lights(pyrender: Any, scene: Any, given: Any) -> None:
    for position in given["points"]:
        light = pyrender.PointLight(color=np.full(3, given["point_color"]), intensity=float(given["point_intensity"]))
        scene.add(light, pose=_at(position))
    for position in given["spots"]:
        light = pyrender.SpotLight(
            color=np.ones(3), intensity=float(given["spot_intensity"]), innerConeAngle=float(given["inner_cone"]),
            outerConeAngle=float(given["outer_cone"]),
        )  # fmt: skip
        scene.add(light, pose=_at(position))


def _at(position: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = position
    return pose


def main() -> None:
    """IN.npz to OUT.npz, as described above."""
    source, target, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 1
    pyrender, trimesh = _pyrender(), importlib.import_module("trimesh")
    given = np.load(source)
    material = pyrender.MetallicRoughnessMaterial(
        metallicFactor=float(given["metallic"]), roughnessFactor=float(given["roughness"]), alphaMode="OPAQUE",
        baseColorFactor=(*given["base_color"].tolist(), 1.0),
    )  # fmt: skip
    camera = pyrender.IntrinsicsCamera(*(float(given[key]) for key in ("fx", "fy", "cx", "cy")))
    renderer = pyrender.OffscreenRenderer(int(given["width"]), int(given["height"]))
    seconds = []
    for _ in range(repeats):
        mesh = trimesh.Trimesh(given["vertices"], given["faces"], process=False)
        started = time.perf_counter()
        scene = pyrender.Scene(bg_color=[0, 0, 0, 0], ambient_light=np.full(3, given["ambient"]))
        node = scene.add(pyrender.Mesh.from_trimesh(mesh, material=material, smooth=True))
        scene.add(camera, pose=np.linalg.inv(given["view"]))
        _lights(pyrender, scene, given)
        color, depth = renderer.render(scene)
        seconds.append(time.perf_counter() - started)
    # The segmentation pass is the one that pyrender draws without multisampling.
    flags = pyrender.RenderFlags.SEG
    segments, _ = renderer.render(scene, flags=flags, seg_node_map={node: (255, 255, 255)})
    renderer.delete()
    np.savez(target, color=color, depth=depth, silhouette=segments[..., 0] > 0, seconds=np.array(seconds))


if __name__ == "__main__":
    main()
