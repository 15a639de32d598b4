"""Processes that train together: who they are, what they add up, agree on and wait for.

``torchrun`` starts them and names each by ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``. All do the same with their own
part of each batch; the first writes. Torch is imported late: commands ask who speaks (:mod:`sida.cli.rank_output`)
before the numerical libraries may know their threads.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sida.errors import EXIT_RETRY, UserError
from sida.runtime.devices import take_device

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
#: How long a rank waits for the others within a step, and for what the first does alone (reading a state, say).
STEP_TIMEOUT, FIRST_TIMEOUT = timedelta(minutes=30), timedelta(hours=2)
#: Where ranks leave each other word, while they are joined.
STORE: Any = None


class RankLostError(UserError):
    """Another process has ended or does not answer; what was kept last is intact, and the same command goes on."""

    status = EXIT_RETRY


class Ranks:
    """This process among those that train together; by itself it is the only one.

    Attributes:
        rank: Its number, from 0.
        world_size: Number of processes.
    """

    rank, world_size = 0, 1

    def add_up(self, tensor: torch.Tensor) -> None:
        """Sums a tensor over all ranks, in place."""

    def average(self, tensor: torch.Tensor) -> None:
        """Averages a tensor over all ranks, in place."""

    def reduce_scatter(self, piece: torch.Tensor, whole: torch.Tensor) -> None:
        """``piece`` becomes this rank's part of the sum of all ranks' ``whole``, which is as long as all pieces."""
        piece.copy_(whole)

    def all_gather(self, whole: torch.Tensor, piece: torch.Tensor) -> None:
        """``whole`` becomes all ranks' pieces, one behind the other; ``piece`` may lie at its place in it."""
        if whole.data_ptr() != piece.data_ptr():
            whole.copy_(piece)

    def agree(self, request: T) -> T:
        """The greatest of all ranks' wishes (of an ``IntEnum`` or bool)."""
        return request

    def from_first(self, task: Callable[[], T]) -> T:
        """Runs the task on the first rank alone, and gives its result on all ranks; the others wait."""
        return task()

    def gather(self, value: T) -> list[T]:
        """All ranks' values in their order, on the first rank; an empty list on the others."""
        return [value]

    def tensors_from_first(self, tensors: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        """The first rank's named tensors (on the CPU), on all ranks; what the others give does not count."""
        assert tensors is not None
        return dict(tensors)


#: The only process.
ALONE = Ranks()


class ProcessGroup(Ranks):
    """Ranks that are joined by :mod:`torch.distributed`.

    A rank that has died ends what the others wait for, so they raise :class:`RankLostError`.

    Args:
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        import torch.distributed as dist

        self.rank, self.world_size = rank, world_size
        # Collectives have been renamed; the older names still work, with a warning.
        self._scatter: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        self._gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        self._patient: Any = dist.new_group(backend="gloo", timeout=FIRST_TIMEOUT)
        self._dist: Any = dist

    def add_up(self, tensor: torch.Tensor) -> None:
        """See :meth:`Ranks.add_up`."""
        with self._answered():
            self._dist.all_reduce(tensor)

    def average(self, tensor: torch.Tensor) -> None:
        """See :meth:`Ranks.average`."""
        self.add_up(tensor)
        tensor.div_(self.world_size)

    def reduce_scatter(self, piece: torch.Tensor, whole: torch.Tensor) -> None:
        """See :meth:`Ranks.reduce_scatter`."""
        with self._answered():
            self._scatter(piece, whole)

    def all_gather(self, whole: torch.Tensor, piece: torch.Tensor) -> None:
        """See :meth:`Ranks.all_gather`."""
        with self._answered():
            self._gather(whole, piece)

    def agree(self, request: T) -> T:
        """See :meth:`Ranks.agree`."""
        import torch

        value = torch.tensor(int(request))  # type: ignore[call-overload]
        with self._answered():
            self._dist.all_reduce(value, op=self._dist.ReduceOp.MAX)
        return type(request)(int(value))  # type: ignore[call-arg]

    def from_first(self, task: Callable[[], T]) -> T:
        """See :meth:`Ranks.from_first`."""
        result: list[Any] = [task() if self.rank == 0 else None]
        with self._answered():
            self._dist.broadcast_object_list(result, src=0, group=self._patient)
        given: T = result[0]
        return given

    def gather(self, value: T) -> list[T]:
        """See :meth:`Ranks.gather`."""
        values: list[Any] = [None] * self.world_size if self.rank == 0 else []
        with self._answered():
            self._dist.gather_object(value, values if self.rank == 0 else None, dst=0, group=self._patient)
        return values

    def tensors_from_first(self, tensors: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        """See :meth:`Ranks.tensors_from_first`."""
        import torch

        given = dict(tensors or {})
        kinds = self.from_first(lambda: [(name, value.shape, value.dtype) for name, value in given.items()])
        result = {}
        for name, shape, dtype in kinds:
            value = given[name].contiguous() if self.rank == 0 else torch.empty(shape, dtype=dtype)
            with self._answered():
                self._dist.broadcast(value, src=0, group=self._patient)
            result[name] = value
        return result

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RankLostError(
                f"another of the {self.world_size} processes of this training has ended or does not answer "
                f"({_reason(error)}); the last kept state is intact: run the same command again to resume"
            ) from None


def place() -> tuple[int, int, int]:
    """Number of this process, number of all, and number on this machine, as ``torchrun`` says; else 0, 1, 0.

    Raises:
        UserError: The variables are no numbers, or do not fit each other.
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
        raise UserError(f"{given}: not what torchrun sets; start the processes by torchrun, or unset RANK")
    return rank, world_size, local_rank


def own_device(name: str, where: str) -> torch.device:
    """The device of this process: of several on a machine with GPUs, each has its own.

    Args:
        name: ``cpu``, or ``cuda``.
        where: Place named in errors.

    Raises:
        UserError: No such device here, or fewer GPUs than processes.
    """
    import torch

    device = take_device(name, where)
    _, world_size, local_rank = place()
    if device.type != "cuda" or world_size == 1:
        return device
    if device.index is not None:
        raise UserError(f"{where}.device: '{name}' is one GPU, for {world_size} processes; use cuda")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"{where}.device: process {local_rank} of this machine has no GPU, there are {torch.cuda.device_count()}; "
            "start as many processes as there are GPUs (torchrun --nproc-per-node)"
        )
    return take_device(f"cuda:{local_rank}", where)


@contextlib.contextmanager
def joined(device: torch.device, facts: Mapping[str, object] | None = None) -> Iterator[Ranks]:
    """The processes that were started together; :data:`ALONE` where there is only one.

    Args:
        device: Of this process; its kind decides how tensors are exchanged: gloo on the CPU, nccl on GPUs.
        facts: What all of them must have in common, by name.

    Raises:
        UserError: The others cannot be reached, or a fact of one is another than the first's (on all of them).
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
            f"the {world_size} processes of this training cannot reach each other ({_reason(error)}); start them again"
        ) from None
    _check_alike(ranks, facts or {})
    yield ranks
    # Not after an error: the others may never answer.
    dist.destroy_process_group()
    STORE = None


def _check_alike(ranks: Ranks, facts: Mapping[str, object]) -> None:
    everyones = ranks.gather(facts)

    def difference() -> str | None:
        for rank, theirs in enumerate(everyones):
            for name, value in facts.items():
                if theirs.get(name) != value:
                    return f"rank {rank} has another {name} than rank 0: {theirs.get(name)}, not {value}"
        return None

    if (line := ranks.from_first(difference)) is not None:
        raise UserError(f"{line}; give all processes the same settings, files and code")


def _reason(error: Exception) -> str:
    """The first sentence of what a backend says, without the places in its source."""
    text = re.sub(r"\[\S*/\S*\] *", "", str(error)).strip()
    return text.split("\n")[0].split(". ")[0][:160] or type(error).__name__
