"""Tests of several devices are collected where there are several."""

import os

from paths import EIGHT_DEVICES

collect_ignore = [] if EIGHT_DEVICES in os.environ.get("XLA_FLAGS", "") else ["eight"]
