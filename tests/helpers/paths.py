"""Where the repository is, and the flag of several devices."""

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
TESTS = ROOT / "tests"
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
