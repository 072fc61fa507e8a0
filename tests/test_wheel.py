"""The wheel holds the package and nothing else, and works where the repository is not."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import mimir_ray

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built by the build backend alone: no environment is made and no index is asked."""
    folder = tmp_path_factory.mktemp("wheel")
    program = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed, without its dependencies."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    return target


def outside(program: str, installed: Path, cwd: Path) -> str:
    """What ``program`` writes when it runs in ``cwd`` with the installed wheel and without the repository."""
    path = os.pathsep.join([str(installed), sysconfig.get_path("purelib")])
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_the_package_ships(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"mimir_ray", f"mimir_ray-{mimir_ray.__version__}.dist-info"}
    assert "mimir_ray/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    unwanted = [name for name in names if name.endswith((".pyc", ".mp4", ".parquet", ".ckpt", ".tmp"))]
    assert not unwanted


def test_everything_the_package_reads_ships(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "mimir_ray"], cwd=ROOT, capture_output=True, text=True, check=False)
    tracked = set(listed.stdout.split("\n")) - {""}
    if not tracked:
        pytest.skip("not a git checkout, so there is no list of tracked files to compare with")
    with zipfile.ZipFile(wheel) as archive:
        missing = {name for name in tracked if (ROOT / name).exists()} - set(archive.namelist())
    assert not missing


def test_the_wheel_stays_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 15 << 20, "the shipped weights are at most 12 MB together"


def test_every_module_imports_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    program = (
        "import importlib, pkgutil, mimir_ray\n"
        "for module in pkgutil.walk_packages(mimir_ray.__path__, 'mimir_ray.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "print(mimir_ray.__file__, mimir_ray.__version__)\n"
    )
    where, version = outside(program, installed, tmp_path).split()[-2:]
    assert Path(where).is_relative_to(installed)
    assert version == mimir_ray.__version__


def test_the_command_answers_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    said = outside(
        "import sys; sys.argv = ['mimir', '--help']; from mimir_ray.cli import main; main()", installed, tmp_path
    )
    for verb in ("quickstart", "curate", "precompute", "train", "generate"):
        assert verb in said
