"""What all tests share: the folder of real input beside the repository, and the skip of GPU tests without a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

SHARED = Path(__file__).resolve().parents[2] / "shared"

settings.register_profile("liveanchor", deadline=None, max_examples=60)  # no deadline: test machines are shared
settings.load_profile("liveanchor")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `../shared` with real clips (`shared / "data" / ...`); the test skips where it is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real input: {SHARED / 'data'} does not exist")
    return SHARED


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        torch = pytest.importorskip("torch", reason="needs torch with a CUDA device")
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an exported avatar of random small networks, with a face. Read-only: copy what you change."""
    for package in ("torch", "diffusers", "onnxscript"):
        pytest.importorskip(package, reason="exporting needs the [train] extra")
    from small_avatar import write_avatar

    from export.avatar import export_avatar

    folder = tmp_path_factory.mktemp("exported")
    write_avatar(folder)
    export_avatar(folder / "avatar")
    return folder / "avatar"


@pytest.fixture(scope="session")
def halved(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same avatar with its graphs in half precision beside the others. Read-only."""
    from export.avatar import export_avatar

    folder = tmp_path_factory.mktemp("halved") / "avatar"
    shutil.copytree(exported, folder)
    export_avatar(folder, precision="f16")
    return folder
