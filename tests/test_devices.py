"""Runs `tests/devices` on eight virtual devices, in a process of its own.

Code takes other paths on one device, and both must be tested.
"""

import os
import pathlib
import subprocess
import sys

from conftest import DEVICES

FOLDER = pathlib.Path(__file__).parent / "devices"


def test_laws_hold_on_eight_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(FOLDER)]
    done = subprocess.run(
        command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
