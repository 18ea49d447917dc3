"""Keeps the tests for several devices out of a process that has one."""

import os

DEVICES = "--xla_force_host_platform_device_count=8"

collect_ignore = [] if DEVICES in os.environ.get("XLA_FLAGS", "") else ["devices"]
