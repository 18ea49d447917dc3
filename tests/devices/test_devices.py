"""Runs `tests/devices/eight` on eight virtual devices, in a process of its own.

Code takes other paths on one device, and both must be tested.
"""

import os
import subprocess
import sys

from paths import EIGHT_DEVICES, TESTS


def test_laws_hold_on_eight_devices(request):
    flags = f"{os.environ.get('XLA_FLAGS', '')} {EIGHT_DEVICES}"
    exhaustive = ["--exhaustive"] * request.config.getoption("exhaustive")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *exhaustive]
    done = subprocess.run(
        [*command, str(TESTS / "devices/eight")],
        env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
