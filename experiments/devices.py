"""How many devices jax lays runs over."""

import contextlib
import os

import jax

from experiments.provenance import cores

_MOST = 6


def use_cores(count: int = 0) -> None:
    """Let jax take each core for a device, if nobody has said otherwise and it does not run yet.

    Args:
        count: devices; 0 means as many as there are cores, up to six.
    """
    # Runs do not talk to each other: one device a core is faster than one device with threads.
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # jax runs already, in a test or a notebook
        jax.config.update("jax_num_cpu_devices", count or min(cores(), _MOST))
