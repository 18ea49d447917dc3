"""`python -m experiments`: the command line. CONTRIBUTING.md explains the words."""

import os
import sys

from experiments.cli import INTERRUPTED, main

if __name__ == "__main__":
    code = main(sys.argv[1:])
    if code == INTERRUPTED:  # the thread that trains is still at it; what is finished is kept
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
