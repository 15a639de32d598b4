"""``python -m workflow.launch [--nodes N] GPUS MODULE ...``: runs ``python -m MODULE ...`` on GPUs of the pool.

Rules start commands on GPUs with this launcher. Without a pool (``SIDA_GPUS``) and on one node the launcher only
executes the command, so it imports nothing that takes time.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

USAGE = "usage: python -m workflow.launch [--nodes N] GPUS MODULE ARGUMENTS ..."


def main(words: Sequence[str]) -> None:
    """Replaces this process by the command.

    Args:
        words: ``[--nodes N] GPUS MODULE`` and its arguments.

    Raises:
        SystemExit: Bad arguments, or a pool that is too small; the message is one line.
    """
    nodes, words = (words[1], words[2:]) if words[:1] == ["--nodes"] else ("1", words)
    if len(words) < 2 or not (nodes.isdecimal() and words[0].isdecimal()):
        raise SystemExit(USAGE)
    gpus, module = int(words[0]), words[1:]
    if int(nodes) > 1:
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


def on_nodes(nodes: int, gpus: int, module: Sequence[str]) -> list[str]:
    """The command that runs a module on several nodes.

    Args:
        nodes: Number of nodes.
        gpus: Total number of GPUs, a multiple of `nodes`; one process is started for each.
        module: Name of the module and its arguments.

    Returns:
        ``srun ... torchrun ... -m module``; the processes connect to a free port of this node.

    Raises:
        SystemExit: There is no allocation, or the GPUs cannot be divided evenly.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise SystemExit(
            f"error: --nodes {nodes}: several nodes need an allocation of SLURM, and SLURM_JOB_ID is not set"
        )
    if gpus % nodes or not gpus:
        raise SystemExit(f"error: --nodes {nodes}: {gpus} GPUs cannot be shared evenly")
    srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--cpu-bind=none"]
    # A failing process ends all others, which would otherwise wait for it.
    srun.append("--kill-on-bad-exit=1")
    meet = ["--rdzv-backend=c10d", f"--rdzv-id={job}", f"--rdzv-endpoint={socket.gethostname()}:{_free_port()}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={gpus // nodes}"]
    signals = "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1"
    return [*srun, *torchrun, *meet, signals, "-m", *module]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main(sys.argv[1:])
