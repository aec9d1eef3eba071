"""Imports between folders point one way, and what is needed before torch loads without it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = (  # each may import from those before it; folders on one floor do not import each other
    {"request", "prompts", "modes", "events", "errors", "limits"},
    {"model", "media"},
    {"sampling"},
    {"loading"},
    {"pipeline"},
    {"training", "runtime"},
    {"paperworld"},
    {"page", "train", "__main__"},
    {"app"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
WITHOUT_TORCH = (
    "request prompts modes events errors limits media.video media.images media.animations media.sound "
    "loading.registry loading.layout loading.hub runtime.jobs runtime.model_cache page.widgets"
).split()


def imported(tree: ast.Module) -> list[tuple[int, str]]:
    """Line and dotted name of what a module imports, inside functions too: `from x import y` is x.y."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, f"{'.' * node.level}{node.module or ''}.{a.name}") for a in node.names]
    return found


def violations(root: Path) -> list[str]:
    found = []
    for file in [*sorted((root / "lumiere").rglob("*.py")), root / "app.py"]:
        if not file.exists():
            continue
        where = file.relative_to(root)
        own = where.with_suffix("").parts
        own = own[1] if own[0] == "lumiere" else own[0]
        for line, name in imported(ast.parse(file.read_text("utf-8"))):
            top, *rest = name.split(".")
            target = rest[0] if top == "lumiere" and rest else top
            if name.startswith("."):
                found.append(f"{where}:{line}: relative import")
            elif own in FLOOR and target in FLOOR and target != own:
                below = FLOOR[target] < FLOOR[own] or FLOOR[target] == FLOOR[own] == 0
                if not below:
                    found.append(f"{where}:{line}: {own} imports {target}")
        if own not in (*FLOOR, "__init__"):
            found.append(f"{where}: {own} has no floor")
    return found


def test_imports_point_downwards():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    "name, text",
    [
        ("lumiere/request.py", "from lumiere.media.video import read_clip"),
        ("lumiere/model/layers.py", "def f():\n    import lumiere.pipeline"),
        ("lumiere/model/layers.py", "from lumiere.media import video"),
        ("lumiere/model/layers.py", "from . import hooks"),
        ("lumiere/training/loss.py", "from lumiere.runtime.jobs import Job"),
        ("lumiere/pipeline.py", "from lumiere.paperworld.judge.judge import judge"),
        ("lumiere/runtime/jobs.py", "import app"),
        ("lumiere/helpers.py", ""),
    ],
)
def test_finds_what_points_elsewhere(tmp_path, name, text):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert len(violations(tmp_path)) == 1


def test_loads_without_torch():
    code = "import importlib, sys\n"
    code += f"for name in {WITHOUT_TORCH}:\n"
    code += "    importlib.import_module(f'lumiere.{name}')\n"
    code += "    assert 'torch' not in sys.modules, name\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(FLOORS[0]))
def test_ground_floor_needs_the_standard_library_only(name):
    names = imported(ast.parse((ROOT / "lumiere" / f"{name}.py").read_text("utf-8")))
    assert {each.split(".")[0] for _, each in names} <= {*sys.stdlib_module_names, "lumiere", "numpy"}
