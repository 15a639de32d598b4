"""``python -m sida.workflow.snakemake ARGUMENTS``: Snakemake, which an interrupt ends without a trace at once.

A run in which servers turned out to have no file of some rows starts once more, without these rows.
"""

import os
import sys

from sida.errors import say
from sida.workflow.interrupts import INTERRUPTS

if __name__ == "__main__":
    INTERRUPTS.take()
    sys.argv[0] = "snakemake"  # its name in messages
    from snakemake.cli import main

    try:
        main()
    except SystemExit:
        if not INTERRUPTS.again or INTERRUPTS.interrupted:
            raise
        say("going on without these rows")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
