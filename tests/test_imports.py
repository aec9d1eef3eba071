"""Imports point one way: a module imports only from modules named before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ORDER = (
    "version allocator bounds request fetch folder style table layers places hooks inflate motion adapters "
    "conditioning windows steady preview video images convnet repeats forecaster opener loading lora text "
    "memory codec sampling stills prediction drafts revisions turns denoising assembly pipeline modes models "
    "zerogpu batch jobs data clipfolder curves optimizer loss settings textcache trainer paperworld train "
    "page __main__ app"
).split()
WITHOUT_TORCH = (
    "app",
    "page",
    "allocator",
    "bounds",
    "request",
    "fetch",
    "folder",
    "style",
    "table",
    "video",
)


def imported(tree: ast.Module, package: list[str]) -> list[tuple[int, str]]:
    """Line and absolute dotted name of everything a module imports, inside functions too.

    `from x import y` counts as x.y, because y may be a module. package: where relative imports start.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            found += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "__import__",
            "importlib.import_module",
        ):
            name = node.args[0] if node.args else None
            found.append((node.lineno, name.value if isinstance(name, ast.Constant) else "lumiere.?"))
    return found


def violations(root: Path) -> list[str]:
    """What breaks the rule in `root`/app.py and `root`/lumiere, where modules of the order may be missing."""
    found = []
    files = sorted((root / "lumiere").rglob("*.py")) + [f for f in [root / "app.py"] if f.exists()]
    for file in files:
        parts = list(file.relative_to(root).with_suffix("").parts)
        package = parts[:-1]
        own = parts[1] if parts[0] == "lumiere" else parts[0]
        names = imported(ast.parse(file.read_text("utf-8")), package)
        where = file.relative_to(root).as_posix()
        if parts == ["lumiere", "__init__"]:
            found += [f"{where}:{line}: the package itself imports nothing" for line, _ in names]
            continue
        if own not in ORDER:
            found.append(f"{where}: has no place in the order")
            continue
        for line, name in names:
            top, _, rest = name.partition(".")
            target = rest.split(".")[0] if top == "lumiere" else "app" if top == "app" else None
            if own in WITHOUT_TORCH and top == "torch":
                found.append(f"{where}:{line}: {own} imports torch")
            if target in (None, "", own):
                continue
            if target not in ORDER or ORDER.index(target) > ORDER.index(own):
                found.append(f"{where}:{line}: {own} imports {target}")
    return list(dict.fromkeys(found))


def test_imports_of_the_package_point_one_way():
    assert (ROOT / "lumiere" / "request.py").exists()
    assert violations(ROOT) == []


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_checker_accepts_what_is_allowed(tmp_path):
    files = {
        "lumiere/__init__.py": '"""Lumiere."""',
        "lumiere/request.py": "import json, secrets",
        "lumiere/layers.py": "import torch",
        "lumiere/inflate.py": "from .layers import X\nfrom lumiere.layers import Y",
        "lumiere/video.py": "import numpy\nfrom lumiere.request import FPS",
        "lumiere/paperworld/__init__.py": "",
        "lumiere/paperworld/render.py": "from . import shapes\nfrom .shapes import S\nfrom ..video import W",
        "lumiere/paperworld/shapes.py": "import numpy",
        "lumiere/__main__.py": "from lumiere import jobs, models, request\nimport lumiere.video as v",
        "app.py": "import gradio\nfrom lumiere import jobs\nfrom lumiere.request import Request",
    }
    assert violations(write(tmp_path, files)) == []


@pytest.mark.parametrize(
    "name, text",
    [
        ("lumiere/request.py", "from lumiere.video import read_clip"),
        ("lumiere/request.py", "from .video import read_clip"),
        ("lumiere/request.py", "from . import video"),
        ("lumiere/request.py", "from lumiere import video"),
        ("lumiere/request.py", "import lumiere.video"),
        ("lumiere/request.py", "def f():\n    import lumiere.video as v"),
        ("lumiere/request.py", "import torch"),
        ("lumiere/request.py", "try:\n    from torch.nn import Module\nexcept ImportError:\n    pass"),
        ("lumiere/video.py", "import torch.nn.functional as F"),
        ("lumiere/video.py", "import importlib\nimportlib.import_module('lumiere.pipeline')"),
        ("lumiere/pipeline.py", "import importlib\nimportlib.import_module('.' + name)"),
        ("lumiere/pipeline.py", "from lumiere.jobs import Job"),
        ("lumiere/pipeline.py", "from .paperworld.judge import judge"),
        ("lumiere/models.py", "import app"),
        ("lumiere/paperworld/render.py", "from ..__main__ import main"),
        ("lumiere/__init__.py", "from .request import Request"),
        ("lumiere/layers.py", "from lumiere.helpers import h"),
        ("lumiere/helpers.py", "import json"),
        ("lumiere/paperworld/deep/er.py", "from ...__main__ import main"),
        ("lumiere/page/words.py", "import torch"),
        ("app.py", "import torch"),
        ("app.py", "def f():\n    from torch import no_grad"),
    ],
)
def test_checker_finds_a_violation(tmp_path, name, text):
    write(tmp_path, {"lumiere/__init__.py": "", "lumiere/request.py": "", name: text})
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize("module", ["request", "video"])
def test_importing_does_not_load_torch(module):
    code = f"import sys, lumiere.{module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "torch was loaded"


@pytest.mark.parametrize(
    "module, others",
    [
        ("version", set()),
        ("bounds", set()),
        ("request", {"lumiere"}),
        ("fetch", {"huggingface_hub", "tqdm"}),
        ("folder", {"lumiere"}),
    ],
)
def test_what_is_known_before_torch_needs_the_standard_library_only(module, others):
    names = imported(ast.parse((ROOT / "lumiere" / f"{module}.py").read_text("utf-8")), ["lumiere"])
    assert {name.partition(".")[0] for _, name in names} - set(sys.stdlib_module_names) <= others
