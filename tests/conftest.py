"""Which process runs which tests: several devices apart, all laws of a clipper in one.

Nearly all the time of the tests is compilation: the processes share what they have compiled.
"""

import atexit
import os
import re
import shutil
import tempfile

from xdist.scheduler import LoadScopeScheduling

DEVICES = "--xla_force_host_platform_device_count=8"

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # read by processes that start from here on
    _folder = tempfile.mkdtemp(prefix="clipax-compiled-")
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

collect_ignore = [] if DEVICES in os.environ.get("XLA_FLAGS", "") else ["devices"]


class _ByClipper(LoadScopeScheduling):
    """Gives a process all laws of one clipper, so that it compiles it once; other tests by files.

    The name of the clipper stands last in what `pytest` adds to the name of a law.
    """

    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        if file.startswith("tests/test_laws_"):
            clipper = re.search(r"[\[-](\w+)\]$", test)
            return clipper[1] if clipper else file
        return nodeid if file == "tests/test_devices.py" else file


def pytest_xdist_make_scheduler(config, log):
    return _ByClipper(config, log)
