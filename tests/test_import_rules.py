"""The map of the rooms, enforced: who may import whom, and which names are traps.

Every import statement counts, wherever it stands: a function body and a TYPE_CHECKING block tie two rooms together too.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"mimir_ray", "jobs", "serve"}

LEAVES = {"yaml_core", "config", "room", "console", "jsonl", "records", "dataflow", "vllm", "pages", "storage", "video"}
JOBS = {"curation", "precompute", "training", "retrieval", "evaluation", "serving"}
ALLOWED: dict[str, set[str]] = {
    "yaml_core": set(),
    "config": {"yaml_core"},
    "console": set(),
    "jsonl": {"config"},
    "records": {"config"},
    "room": {"config"},
    "dataflow": {"config", "console", "room"},
    "vllm": {"config", "dataflow", "room"},
    "pages": set(),
    "storage": {"config", "records"},
    "video": {"config", "records", "storage"},
    "model": {"config"},
    "shapes": {"model"} | LEAVES,
    "generation": {"model"} | LEAVES,
    "curation": {"model", "generation"} | LEAVES,
    "precompute": {"model", "generation"} | LEAVES,
    "training": {"model", "generation"} | LEAVES,
    "retrieval": {"model", "generation"} | LEAVES,
    "evaluation": {"model", "generation", "shapes"} | LEAVES,
    "serving": {"generation"} | LEAVES,
    "quickstart": {"model", "shapes", "generation", "recipes"} | JOBS | LEAVES,
    "cli": {"model", "shapes", "generation", "recipes", "quickstart"} | JOBS | LEAVES,
}
MAP = {*ALLOWED, "recipes"}
FORBIDDEN_LIBRARIES = {
    "model": {"ray", "deepspeed"},
    "config": {"ray", "torch", "deepspeed"},
    "recipes": {"ray", "torch"},
}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def statements(source: str, module: str, is_package: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Of each import what it names: the module, and the names that it takes from it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
                base = ".".join([*parts, *filter(None, [base])])
            yield base, [alias.name for alias in node.names]


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Full dotted names of what a module imports; of ``from a import b`` both ``a`` and ``a.b``."""
    for base, names in statements(source, module, is_package):
        yield base
        yield from (f"{base}.{name}" for name in names)


def offences(source: str, module: str, is_package: bool = False) -> list[str]:
    """What this module imports and must not."""
    top, *rest = module.split(".")
    room = rest[0] if rest else ""
    found = []
    for name in sorted(set(imports(source, module, is_package))):
        library, *inside = name.split(".")
        if library in FORBIDDEN_LIBRARIES.get(room, set()) or (
            module.endswith(".config") and library in FORBIDDEN_LIBRARIES["config"]
        ):
            found.append(f"{module} imports {name}: {room} must not need {library}")
        if top == "mimir_ray" and library in OURS - {"mimir_ray"}:
            found.append(f"{module} imports {name}: nothing in mimir_ray imports {library}/")
        if top != "mimir_ray" or library != "mimir_ray" or not inside:
            continue
        target = inside[0]
        if target == room or target not in MAP or not room:
            continue
        if room == "recipes":
            shipped = inside[:2] == ["shapes", "weights"]  # the shapes recipe names the checkpoints in the package
            if not (target in ("config", "dataflow") or inside[1:2] == ["config"] or inside[1:] == [] or shipped):
                found.append(f"{module} imports {name}: recipes import config classes and shipped weights only")
        elif target not in ALLOWED.get(room, set()):
            found.append(
                f"{module} imports {name}: {room} may import {sorted(ALLOWED.get(room, set())) or 'nothing of ours'}"
            )
    return found


def test_no_import_circles() -> None:
    """Inside a room either, and however late an import is made."""
    paths = {module_of(path): path for path in python_files("mimir_ray", "jobs", "serve")}
    needed: dict[str, set[str]] = {module: set() for module in paths}
    for module, path in paths.items():
        for base, names in statements(path.read_text("utf-8"), module, path.name == "__init__.py"):
            modules = {f"{base}.{name}" if f"{base}.{name}" in paths else base for name in names} or {base}
            needed[module] |= modules & set(paths)
    try:
        TopologicalSorter(needed).prepare()
    except CycleError as circle:
        pytest.fail(" imports ".join(reversed(circle.args[1])))


def rooms() -> set[str]:
    package = ROOT / "mimir_ray"
    return {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()} - {
        "__init__"
    }


def test_every_room_is_on_the_map() -> None:
    strangers = rooms() - MAP
    assert not strangers, f"no import rule for {strangers}: give them one, in the design and here"


@pytest.mark.parametrize(
    "path", python_files("mimir_ray", "jobs", "serve"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_follow_the_map(path: Path) -> None:
    assert not offences(path.read_text(), module_of(path), path.name == "__init__.py")


def test_nobody_imports_the_command_line_but_jobs() -> None:
    for path in python_files("mimir_ray"):
        module = module_of(path)
        if module.split(".")[1:2] != ["cli"]:
            found = [name for name in imports(path.read_text(), module) if name.startswith("mimir_ray.cli")]
            assert not found, f"{module} imports {found}"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mimir_ray.config", "import mimir_ray.records"),
        ("mimir_ray.records", "from mimir_ray.storage import Table"),
        ("mimir_ray.model.pipeline", "import ray"),
        ("mimir_ray.model.pipeline", "def f():\n    from deepspeed.ops import adam"),
        ("mimir_ray.model.pipeline", "from mimir_ray.records import Clip"),
        ("mimir_ray.training.config", "import torch"),
        ("mimir_ray.training.trainer", "from mimir_ray.precompute.config import PrecomputeConfig"),
        ("mimir_ray.training.trainer", "from mimir_ray import precompute"),
        ("mimir_ray.training.trainer", "from ..precompute import encode"),
        ("mimir_ray.training.trainer", "from mimir_ray.shapes import scorer"),
        ("mimir_ray.curation.rules", "if TYPE_CHECKING:\n    from mimir_ray.precompute import x"),
        ("mimir_ray.serving.app", "from mimir_ray.model.sampling import Sampler"),
        ("mimir_ray.recipes", "from mimir_ray.training.trainer import train"),
        ("mimir_ray.generation.batch", "from mimir_ray.cli import main"),
        ("mimir_ray.quickstart.journal", "from mimir_ray.cli.verb import register"),
        ("mimir_ray.training.train", "from mimir_ray.quickstart import run"),
        ("mimir_ray.console", "from mimir_ray.config import UserError"),
        ("mimir_ray.cli", "from jobs.train import main"),
        ("mimir_ray.serving.app", "from serve import app"),
    ],
)
def test_a_breach_is_seen(module: str, source: str) -> None:
    assert offences(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "mimir_ray.training.trainer",
            "import ray\nfrom mimir_ray.model.token_fuser import TokenFuser\nfrom . import loop",
        ),
        ("mimir_ray.evaluation.run", "from mimir_ray.shapes.scorer import score"),
        ("mimir_ray.serving.app", "from ray import serve\nfrom mimir_ray.generation.generator import Generator"),
        (
            "mimir_ray.recipes",
            "from mimir_ray.training.config import TrainingConfig\nfrom mimir_ray.config import Config",
        ),
        ("mimir_ray.cli.quickstart", "from mimir_ray.quickstart.run import run\nfrom mimir_ray.console import results"),
        ("mimir_ray.quickstart.run", "from mimir_ray.training import train\nfrom mimir_ray.curation import curate"),
        ("jobs.train", "from mimir_ray.cli import main"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert not offences(source, module)


def test_what_every_process_imports_needs_neither_ray_nor_torch_nor_deepspeed() -> None:
    light = ("config.py", "recipes.py", "job.py")  # the last is what Ray Train's controller unpickles
    modules = [module_of(path) for path in python_files("mimir_ray") if path.name in light]
    assert "mimir_ray.training.job" in modules
    program = (
        f"import sys, importlib; [importlib.import_module(name) for name in {modules}];"
        "sys.exit(', '.join({'ray', 'torch', 'deepspeed', 'transformers', 'diffusers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"importing {', '.join(modules)} imports {done.stderr}"


def test_no_file_hides_a_library() -> None:
    taken = [
        path for path in python_files("jobs", "serve") if path.stem in {"serve", "ray", "torch", "typing", "types"}
    ]
    assert not taken, f"{taken} hides a library once its folder is first on sys.path"


def test_the_folder_serve_is_never_imported_as_serve() -> None:
    for path in python_files("mimir_ray", "jobs", "serve", "tests"):
        names = set(imports(path.read_text(), module_of(path), path.name == "__init__.py"))
        assert not any(name == "serve" or name.startswith("serve.") for name in names - {"serve.app"}), path
        assert not {"serve.app", "ray.serve"} <= names, f"{path} imports both serve/ and ray.serve: one hides the other"


def test_jobs_are_told_to_run_as_modules() -> None:
    pages = [*ROOT.glob("*.md"), *python_files("jobs", "mimir_ray"), *(ROOT / "cluster").rglob("*.y*ml")]
    for page in pages:
        assert "python jobs/" not in page.read_text(), (
            f"{page}: jobs/ would be first on sys.path; write python -m jobs.<verb>"
        )
