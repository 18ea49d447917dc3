"""Runs `tests/devices` on eight virtual devices, in processes of their own.

Code takes other paths on one device, and both must be tested.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from conftest import DEVICES

FILES = sorted((pathlib.Path(__file__).parent / "devices").glob("test_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_laws_hold_on_eight_devices(file):
    flags = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(
        command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
