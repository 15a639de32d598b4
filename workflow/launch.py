"""``python -m sida.workflow.launch [--nodes N] GPUS MODULE ...``: runs ``python -m MODULE ...`` on GPUs of the pool.

Rules start commands on GPUs with this launcher; with ``--nodes``, torchrun starts one process for each of several GPUs.
Without a pool (``SIDA_GPUS``) the launcher only executes the command, so it imports nothing that takes time.

A pool distributes a machine's GPUs among jobs by file locks: a process holds a device until the process ends. The
kernel releases a lock (``flock``) when its process ends for any reason. Waiting jobs form one queue (by a separate
lock). So two jobs that need several devices never wait for each other, and jobs that need one device do not overtake a
job that needs many.
"""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sida.errors import UserError

USAGE = "usage: python -m sida.workflow.launch [--nodes N] GPUS MODULE ARGUMENTS ..."
#: Environment of torchrun: signals that it passes on, and seconds for its processes to write a state. Old versions
#: ignore the newer ones.
TORCHRUN = {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGUSR1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120"}


def main(words: Sequence[str]) -> None:
    """Replaces this process by the command.

    Args:
        words: ``[--nodes N] GPUS MODULE`` and its arguments.

    Raises:
        SystemExit: Bad arguments, or a pool that is too small; the message is one line.
    """
    nodes, words = (words[1], words[2:]) if words[:1] == ["--nodes"] else ("0", words)
    if len(words) < 2 or not (nodes.isdecimal() and words[0].isdecimal()):
        raise SystemExit(USAGE)
    gpus, module = int(words[0]), words[1:]
    command = [sys.executable, "-m", *module]
    try:
        if int(nodes) > 1 or (nodes == "1" and gpus > 1):
            command = on_nodes(int(nodes), gpus, module)
            os.environ.update(TORCHRUN)
        if int(nodes) < 2 and gpus and (pool := os.environ.get("SIDA_GPUS")):
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(pool, gpus))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    sys.stdout.flush()
    os.execvp(command[0], command)


def on_nodes(nodes: int, gpus: int, module: Sequence[str]) -> list[str]:
    """The command that runs a module in several processes.

    Args:
        nodes: Number of nodes.
        gpus: Total number of GPUs, a multiple of `nodes`; one process is started for each.
        module: Name of the module and its arguments.

    Returns:
        ``torchrun ... -m module``; on several nodes ``srun ... torchrun ... -m module``, whose processes connect to a
        free port of this node.

    Raises:
        UserError: An allocation is missing, or the GPUs cannot be divided evenly.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={gpus // nodes}"]
    if nodes == 1:
        return [*torchrun, "--standalone", "-m", *module]
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise UserError(f"--nodes {nodes}", "several nodes need an allocation of SLURM, and SLURM_JOB_ID is not set")
    if gpus % nodes or not gpus:
        raise UserError(f"--nodes {nodes}", f"{gpus} GPUs cannot be shared evenly")
    srun = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--cpu-bind=none"]
    # A failing process ends all others, which would otherwise wait for it.
    srun.append("--kill-on-bad-exit=1")
    meet = ["--rdzv-backend=c10d", f"--rdzv-id={job}", f"--rdzv-endpoint={socket.gethostname()}:{_free_port()}"]
    return [*srun, *torchrun, *meet, "-m", *module]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


#: Seconds between checks of busy devices.
PAUSE = 0.2


def devices(pool: str) -> list[str]:
    """Names of a pool's devices in the form of CUDA_VISIBLE_DEVICES.

    Args:
        pool: Number of devices, counted from the first visible one; or names of devices with commas.

    Raises:
        UserError: No devices, a device named twice, or more devices than are visible.
    """
    if not pool.strip().isdecimal():
        names = [name.strip() for name in pool.split(",") if name.strip()]
        if not names or len(set(names)) < len(names):
            raise UserError(f"SIDA_GPUS={pool}", "must be a number of GPUs, or different names such as 0,2")
        return names
    visible, count = os.environ.get("CUDA_VISIBLE_DEVICES"), int(pool)
    names = (
        [name.strip() for name in visible.split(",") if name.strip()]
        if visible is not None
        else [*map(str, range(count))]
    )
    if not 0 < count <= len(names):
        fault = f"{count} GPUs are to be shared, but CUDA_VISIBLE_DEVICES={visible} names {len(names)}"
        raise UserError("", fault, "correct --resources gpu=N or SIDA_GPUS, where '0,' is device 0")
    return names[:count]


def take(pool: str, count: int, folder: Path | None = None) -> list[str]:
    """Waits for devices and locks them until this process, or the command that replaces it, ends.

    Args:
        pool: See :func:`devices`.
        count: Number of devices.
        folder: Folder of the locks; by default one per user of the machine (``SIDA_GPU_LOCKS`` names another).

    Returns:
        Names of the devices.

    Raises:
        UserError: The pool is too small, or its locks cannot be written.
    """
    from sida.files.atomic import wait_for_lock

    names = devices(pool)
    if count > len(names):
        fault = f"a job needs {count} GPUs, but {len(names)} are shared here"
        raise UserError("", fault, f"set gpus={len(names)} in the preset")
    folder = folder or Path(
        os.environ.get("SIDA_GPU_LOCKS") or Path(tempfile.gettempdir()) / f"sida-gpus-{os.getuid()}"
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = _open(folder / "line.lock")
        wait_for_lock(line)
        device_names = _collect(folder, names, count)
    except OSError as error:
        raise UserError(folder, error.strerror, "name another folder for locks in SIDA_GPU_LOCKS") from None
    os.close(line)
    return device_names


def _collect(folder: Path, names: Sequence[str], count: int) -> list[str]:
    """Locks devices as they become free, until there are enough; the caller must hold the lock of the queue."""
    from sida.files.atomic import try_lock

    locks: dict[str, int] = {}
    while True:
        for name in names:
            if name in locks:
                continue
            lock = _open(folder / f"gpu-{name.replace('/', '-')}.lock")
            if not try_lock(lock):
                os.close(lock)
                continue
            # The command that replaces this process keeps the descriptor, and so the lock.
            os.set_inheritable(lock, True)
            locks[name] = lock
            if len(locks) == count:
                return sorted(locks, key=names.index)
        time.sleep(PAUSE)


def _open(path: Path) -> int:
    """Opens a lock file; for another user's file reading suffices, since creating it may be forbidden."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


if __name__ == "__main__":
    main(sys.argv[1:])
