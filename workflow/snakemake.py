"""``python -m workflow.snakemake ARGUMENTS``: Snakemake, which an interrupt ends without a trace from its start on."""

import sys

from workflow.interrupts import INTERRUPTS

if __name__ == "__main__":
    INTERRUPTS.take()
    sys.argv[0] = "snakemake"  # its name in messages
    from snakemake.cli import main

    main()
