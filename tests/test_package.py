import subprocess
import sys

import esrgan


def test_every_public_name_can_be_had():
    for name in esrgan.__all__:
        assert getattr(esrgan, name).__doc__, name


def test_public_names_and_where_they_live_agree():
    assert sorted(esrgan._HOME) == sorted(esrgan.__all__)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, esrgan; assert not {'torch', 'numpy', 'pyvips', 'esrgan.generator'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
