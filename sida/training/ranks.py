"""Processes that train together: their numbers, and the operations that connect them.

``torchrun`` starts the processes and sets ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``. Each process works on its part
of every batch; rank 0 writes. Functions import torch late, because :mod:`sida.cli.train` needs the rank before
the numerical libraries read their number of threads.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sida.errors import EXIT_RETRY, UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
#: Timeouts: within a step, and while rank 0 works alone (for example, reads a state).
STEP_TIMEOUT, FIRST_TIMEOUT = timedelta(minutes=30), timedelta(hours=2)
#: Key-value store shared by the ranks while they are joined.
STORE: Any = None


class RankLostError(UserError):
    """Another process has ended or does not answer; the last state is intact, and the same command resumes."""

    status = EXIT_RETRY


class Ranks:
    """The processes that train together, seen from this process; this base class is a single process.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
    """

    rank, world_size = 0, 1

    def add_up(self, tensor: torch.Tensor) -> None:
        """Sums a tensor over all ranks, in place."""

    def average(self, tensor: torch.Tensor) -> None:
        """Averages a tensor over all ranks, in place."""

    def agree(self, request: T) -> T:
        """Returns the maximum of all ranks' requests (``IntEnum`` or bool)."""
        return request

    def from_first(self, task: Callable[[], T]) -> T:
        """Runs the task on rank 0 while the others wait; returns its result on all ranks."""
        return task()

    def gather(self, value: T) -> list[T]:
        """Returns all ranks' values in order on rank 0, and an empty list on the others."""
        return [value]

    def tensors_from_first(self, tensors: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        """Returns rank 0's named tensors (on the CPU) on all ranks; the arguments of the others are ignored."""
        assert tensors is not None
        return dict(tensors)


#: A single process.
ALONE = Ranks()


class ProcessGroup(Ranks):
    """Processes joined by :mod:`torch.distributed`.

    If a rank dies, operations of the others raise :class:`RankLostError`.

    Args:
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        import torch.distributed as dist

        self.rank, self.world_size = rank, world_size
        self._patient: Any = dist.new_group(backend="gloo", timeout=FIRST_TIMEOUT)
        self._dist: Any = dist

    def add_up(self, tensor: torch.Tensor) -> None:
        """See :meth:`Ranks.add_up`."""
        self._together(self._dist.all_reduce, tensor)

    def average(self, tensor: torch.Tensor) -> None:
        """See :meth:`Ranks.average`."""
        self.add_up(tensor)
        tensor.div_(self.world_size)

    def agree(self, request: T) -> T:
        """See :meth:`Ranks.agree`."""
        import torch

        value = torch.tensor(int(request))  # type: ignore[call-overload]
        self._together(self._dist.all_reduce, value, op=self._dist.ReduceOp.MAX)
        return type(request)(int(value))  # type: ignore[call-arg]

    def from_first(self, task: Callable[[], T]) -> T:
        """See :meth:`Ranks.from_first`."""
        result: list[Any] = [task() if self.rank == 0 else None]
        self._together(self._dist.broadcast_object_list, result, src=0, group=self._patient)
        given: T = result[0]
        return given

    def gather(self, value: T) -> list[T]:
        """See :meth:`Ranks.gather`."""
        values: list[Any] = [None] * self.world_size if self.rank == 0 else []
        self._together(self._dist.gather_object, value, values if self.rank == 0 else None, dst=0, group=self._patient)
        return values

    def tensors_from_first(self, tensors: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        """See :meth:`Ranks.tensors_from_first`."""
        import torch

        given = dict(tensors or {})
        kinds = self.from_first(lambda: [(name, value.shape, value.dtype) for name, value in given.items()])
        result = {}
        for name, shape, dtype in kinds:
            value = given[name].contiguous() if self.rank == 0 else torch.empty(shape, dtype=dtype)
            self._together(self._dist.broadcast, value, src=0, group=self._patient)
            result[name] = value
        return result

    def _together(self, operation: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Does an operation of all processes.

        Raises:
            RankLostError: Another process does not take part.
        """
        try:
            operation(*args, **kwargs)
        except RuntimeError as error:
            raise RankLostError(
                "",
                f"another of the {self.world_size} processes of this training has ended or does not answer "
                f"({_reason(error)}); the last kept state is intact",
                "run the same command again to resume",
            ) from None


def place() -> tuple[int, int, int]:
    """Returns rank, world size and local rank as set by ``torchrun``, or 0, 1, 0 without it.

    Raises:
        UserError: The environment variables are not numbers, or contradict each other.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return 0, 1, 0
    try:
        rank, world_size, local_rank = (int(os.environ.get(name, "0")) for name in names)
    except ValueError:
        rank = world_size = local_rank = -1
    if not 0 <= rank < world_size or local_rank < 0:
        given = ", ".join(f"{name}={os.environ.get(name)}" for name in names)
        raise UserError(given, "not what torchrun sets", "start the processes by torchrun, or unset RANK")
    return rank, world_size, local_rank


def own_device(name: str, where: str) -> torch.device:
    """Returns the device of this process; several processes on a machine each get their own GPU.

    Args:
        name: ``cpu``, or ``cuda``.
        where: Place named in errors.

    Raises:
        UserError: This machine does not have the device, or has fewer GPUs than processes.
    """
    import torch

    from sida.machine import take_device

    device = take_device(name, where)
    _, world_size, local_rank = place()
    if device.type != "cuda" or world_size == 1:
        return device
    if device.index is not None:
        raise UserError(f"{where}.device", f"'{name}' is one GPU, for {world_size} processes", "use cuda")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"{where}.device",
            f"process {local_rank} of this machine has no GPU, there are {torch.cuda.device_count()}",
            "start as many processes as there are GPUs (torchrun --nproc-per-node)",
        )
    return take_device(f"cuda:{local_rank}", where)


@contextlib.contextmanager
def joined(device: torch.device, facts: Mapping[str, object] | None = None) -> Iterator[Ranks]:
    """Context that joins the processes started together; yields :data:`ALONE` for a single process.

    Args:
        device: Device of this process. Its kind decides the backend: gloo for CPUs, nccl for GPUs.
        facts: Facts that must be equal in all processes, by name.

    Raises:
        UserError: The other processes cannot be reached, or a fact of one differs from rank 0's (raised in all).
    """
    global STORE
    rank, world_size, _ = place()
    if world_size == 1:
        yield ALONE
        return
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        STORE, _, _ = next(rendezvous("env://", rank, world_size, timeout=STEP_TIMEOUT))
        dist.init_process_group(backend, store=STORE, rank=rank, world_size=world_size, timeout=STEP_TIMEOUT)
        ranks = ProcessGroup(rank, world_size)
    except (RuntimeError, ValueError) as error:
        raise RankLostError(
            "",
            f"the {world_size} processes of this training cannot reach each other ({_reason(error)})",
            "start them again",
        ) from None
    _check_alike(ranks, facts or {})
    yield ranks
    # Skipped after an error, because the others may never answer.
    dist.destroy_process_group()
    STORE = None


def _check_alike(ranks: Ranks, facts: Mapping[str, object]) -> None:
    of_all = ranks.gather(facts)

    def difference() -> str | None:
        for rank, theirs in enumerate(of_all):
            for name, value in facts.items():
                if theirs.get(name) != value:
                    return f"rank {rank} has another {name} than rank 0: {theirs.get(name)}, not {value}"
        return None

    if (line := ranks.from_first(difference)) is not None:
        raise UserError("", line, "give all processes the same settings, files and code")


def _reason(error: Exception) -> str:
    """First sentence of a backend's message, without positions in its source code."""
    text = re.sub(r"\[\S*/\S*\] *", "", str(error)).strip()
    return text.split("\n")[0].split(". ")[0][:160] or type(error).__name__
