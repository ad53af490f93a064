import subprocess
import sys
import tomllib
from pathlib import Path

import esrgan

ROOT = Path(__file__).parents[1]


def test_every_public_name_can_be_had():
    for name in esrgan.__all__:
        assert getattr(esrgan, name).__doc__, name


def test_public_names_and_where_they_live_agree():
    assert sorted(esrgan._HOME) == sorted(esrgan.__all__)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, esrgan; assert not {'torch', 'numpy', 'pyvips', 'esrgan.generator'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sdist_holds_every_folder_of_code_and_configurations():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.name for kind in ("py", "toml") for path in ROOT.glob(f"[a-z]*/*.{kind}")} - {"runs"}
    assert folders <= set(settings["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
