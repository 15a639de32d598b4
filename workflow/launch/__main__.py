"""``python -m workflow.launch [--nodes N] GPUS MODULE ...``: runs ``python -m MODULE ...`` where the job has its place.

Rules start what uses GPUs by it. Without a pool (``SIDA_GPUS``) and on one node it only becomes the command, so it
imports nothing that takes time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

USAGE = "usage: python -m workflow.launch [--nodes N] GPUS MODULE ARGUMENTS ..."


def main(words: Sequence[str]) -> None:
    """Becomes the command.

    Args:
        words: ``[--nodes N] GPUS MODULE`` and its arguments.

    Raises:
        SystemExit: Bad arguments, or a pool that is too small; with one line.
    """
    nodes, words = (words[1], words[2:]) if words[:1] == ["--nodes"] else ("1", words)
    if len(words) < 2 or not (nodes.isdecimal() and words[0].isdecimal()):
        raise SystemExit(USAGE)
    gpus, module = int(words[0]), words[1:]
    if int(nodes) > 1:
        from workflow.launch.nodes import on_nodes

        command = on_nodes(int(nodes), gpus, module)
    else:
        command = [sys.executable, "-m", *module]
        pool = os.environ.get("SIDA_GPUS")
        if pool and gpus:
            from workflow.launch.pool import PoolError, take

            try:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(pool, gpus))
            except PoolError as error:
                raise SystemExit(f"error: {error}") from None
    sys.stdout.flush()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
