"""Imports go one way, and the command line is light."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "esrgan"
ORDER = (
    {"errors", "config", "files", "weight_file"},
    {"resize", "tiling", "losses", "picture_reader", "pretrained", "images", "metrics", "lpips", "devices"},
    {"generator", "discriminator", "vgg"},
    {"model_file", "photo_store", "data", "players", "pairs", "interpolate"},
    {"objectives", "run_dir", "upscaler"},
    {"training_setup", "steps", "team"},
    {"training", "benchmark"},
    {"validation"},
    {"stages"},
    {"cli"},
)


def imported(path, *, anywhere):
    """Top-level package or module of ours that each import names, with ours as ``esrgan.NAME``."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "esrgan":
            found |= {f"esrgan.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return {name if name.startswith("esrgan.") else name.split(".")[0] for name in found}


def ours(path, *, anywhere=False):
    return {name.removeprefix("esrgan.") for name in imported(path, anywhere=anywhere) if name.startswith("esrgan.")}


MODULES = {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}


def test_no_two_modules_import_each_other():
    TopologicalSorter({name: ours(path, anywhere=True) & MODULES.keys() for name, path in MODULES.items()}).prepare()


def reached(name):
    """All modules of ours that this one imports, directly or not, anywhere in them."""
    found, todo = set(), {name}
    while todo:
        found |= todo
        todo = {other for each in todo for other in ours(MODULES[each], anywhere=True) & MODULES.keys()} - found
    return found


def test_upscaling_and_training_do_not_know_each_other():
    assert not reached("stages") & {"upscaler", "engines", "enlarge", "upscale_one", "folders"}
    assert not reached("upscale_one") & {"stages", "training", "players", "objectives", "losses", "run_dir", "data"}


def test_imports_go_one_way():
    rank = {name: i for i, names in enumerate(ORDER) for name in names}
    for name in rank.keys() & MODULES.keys():
        for other in ours(MODULES[name]) & rank.keys():
            assert rank[other] <= rank[name], f"{name} imports {other}"


def test_nobody_imports_the_command_line():
    for name, path in MODULES.items():
        if name not in ("cli", "__main__"):
            commands = {other for other in ours(path, anywhere=True) if other == "cli" or other.startswith("commands_")}
            shared = {"commands_options"} if name.startswith("commands_") else set()
            assert not commands - shared, f"{name} imports {commands}"


@pytest.mark.parametrize(
    ("library", "home"),
    [("pyvips", ("picture_vips",)), ("cyclopts", ("cli", "commands_")), ("matplotlib", ("plots",))],
)
def test_a_library_is_known_only_where_it_belongs(library, home):
    for name, path in MODULES.items():
        assert library not in imported(path, anywhere=True) or name.startswith(home), f"{name} imports {library}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(("cli", "commands_", "__init__"))])
def test_the_command_line_is_imported_without_torch(name):
    module = "esrgan" if name == "__init__" else f"esrgan.{name}"
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
