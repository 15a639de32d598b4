"""``python -m sida.workflow.snakemake ARGUMENTS``: Snakemake, which an interrupt ends without a trace at once."""

import sys

from sida.workflow.interrupts import INTERRUPTS

if __name__ == "__main__":
    INTERRUPTS.take()
    sys.argv[0] = "snakemake"  # its name in messages
    from snakemake.cli import main

    main()
