"""The machine: devices, threads, TF32, memory, seeds, CUDA graphs, and what records say of it and of the code."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sida
from sida.errors import PassingError, UserError
from sida.late import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Blocks of up to 32 MiB (the limit of older glibc) come from the heap, which keeps up to 1 GiB of freed memory.
_HEAP_BLOCK, _KEEP_FREE = 32 << 20, 1 << 30


def process_rank() -> tuple[int, int, int]:
    """Returns rank, world size and local rank as set by ``torchrun``, or 0, 1, 0 without it.

    Raises:
        UserError: The environment variables are not numbers, or contradict each other.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return 0, 1, 0
    variables = {name: os.environ.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    rank, world_size, local_rank = (int(text) if text.isdecimal() else -1 for text in variables.values())
    if not (0 <= rank < world_size and local_rank >= 0):
        words = ", ".join(f"{name}={text}" for name, text in variables.items())
        raise UserError(words, "not what torchrun sets", "start the processes by torchrun, or unset RANK")
    return rank, world_size, local_rank


def take_device(name: str, where: str) -> torch.device:
    """Returns the device of a name; a GPU with a number becomes this thread's current device.

    In several processes on a machine, each has its own GPU. CUDA graphs, torch's global generator, Triton's kernels and
    the peak of memory belong to the current device.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:NUMBER``.
        where: Place named in errors.

    Raises:
        UserError: The device is not here or torch has no code for it, or there are fewer GPUs than processes.
    """
    if not re.fullmatch(r"(cpu|cuda)(:(0|[1-9]\d?))?", name, re.ASCII):
        raise UserError(f"{where}.device", f"'{name}' is not a device", "use cpu or cuda")
    _, world_size, local_rank = process_rank() if name == "cuda" else (0, 1, 0)
    device = torch.device(f"cuda:{local_rank}" if world_size > 1 else name)
    if device.type == "cuda" and not torch.cuda.is_available():
        reason, remedy = why_no_gpu()
        raise PassingError(f"{where}.device", f"'{name}', but {reason}", remedy)
    if device.type == "cuda" and device.index is not None:
        count = torch.cuda.device_count()
        if device.index >= count:
            fault = f"there is no {device} here, the last GPU is cuda:{count - 1}"
            raise PassingError(f"{where}.device", fault, "use that or cpu")
        torch.cuda.set_device(device)
    if device.type == "cuda" and (fault := code_fault(device)):
        raise PassingError(f"{where}.device", f"'{name}', but {fault}", OTHER_TORCH)
    return device


#: Remedy where the card or its driver is too old for the installed torch.
OTHER_TORCH = "use cpu, another machine, or another torch (docs/cluster.md, Cards and drivers)"
_OTHER_MACHINE = "use cpu, another machine, or a scheduler (docs/cluster.md)"


def why_no_gpu() -> tuple[str, str]:
    """Torch's own reason why it has no GPU, and a remedy."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA", OTHER_TORCH
    try:
        torch.cuda.init()
    except RuntimeError as error:
        reason = str(error).split(". ")[0]
        if "too old" in reason:
            return f"torch {torch.__version__} needs a newer driver: {reason}", OTHER_TORCH
        return f"torch finds no GPU here: {reason}", _OTHER_MACHINE
    return f"no GPU is visible here (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')})", _OTHER_MACHINE


def code_fault(device: torch.device | int) -> str:
    """Says that this build of torch has no code for a GPU; empty if it has.

    Code of a major capability runs on cards of this one from its minor one on: that for 8.0 on 8.9, but not on 9.0.
    """
    (major, minor), built = torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()
    numbers = [int("".join(filter(str.isdigit, name.partition("_")[2]))) for name in built if name.startswith("sm_")]
    if any(major == number // 10 and minor >= number % 10 for number in numbers):
        return ""
    fault = f"torch {torch.__version__} has no code for compute capability {major}.{minor}"
    return f"{fault} (it has {', '.join(built)})"


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copies a tensor to a device asynchronously.

    A plain ``to`` copies from pageable memory and waits for the GPU, which gets no new work meanwhile. A copy from
    pinned memory does not wait.

    Args:
        tensor: Tensor on any device, which must not be changed in place afterwards.
        device: Target device.
    """
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def set_tf32(matmul: bool, convolutions: bool) -> None:
    """Allows or forbids TF32 in the whole process."""
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allows or forbids TF32 in the whole process for a while, then restores the former setting.

    By default torch allows TF32 in convolutions, so a float32 network draws other images on a GPU than on a CPU.
    """
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    set_tf32(allowed, allowed)
    try:
        yield
    finally:
        set_tf32(*before)


def prepare_process(threads: int = 1) -> None:
    """Sets CPU threads, turns TF32 off (as in all published runs) and keeps freed memory.

    Args:
        threads: Intra-operation threads, at least 1.
    """
    torch.set_num_threads(threads)
    set_tf32(matmul=False, convolutions=False)
    keep_freed_memory()


def keep_freed_memory(keep: bool = True) -> None:
    """Makes glibc keep freed memory, instead of returning every activation to the kernel; elsewhere it does nothing.

    A training step or a network that draws frees and allocates the same megabytes repeatedly; by default most of them
    are fresh pages that the kernel must clear (thousands of page faults per step).

    Args:
        keep: False returns freed blocks of 16 MiB and more, such as batches of large images. By default blocks of up
            to 32 MiB stay, between which later ones do not fit, so that a measurement's peak is up to 0.2 GB higher.
    """
    options = {_M_MMAP_THRESHOLD: _HEAP_BLOCK, _M_TRIM_THRESHOLD: _KEEP_FREE}
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in (options if keep else {_M_MMAP_THRESHOLD: _HEAP_BLOCK // 2}).items():
            libc.mallopt(option, value)


def peak_memory(processes: int = 1) -> dict[str, float | str]:
    """Peak memory so far, in MiB: ``memory_mb`` of tensors on a GPU, or of the process without a GPU.

    On a GPU, ``memory_reserved_mb`` is the memory reserved for tensors, and ``gpus`` names the cards of the processes.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        cards = f"{processes} × {torch.cuda.get_device_name()}"
        return {"memory_mb": allocated / 2**20, "memory_reserved_mb": reserved / 2**20, "gpus": cards}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_mb": peak / 2**20 if sys.platform == "darwin" else peak / 2**10}


def available_memory(device: str | torch.device = "cpu") -> int:
    """Bytes that a process may take: free memory of a GPU, else the least of the machine's memory and its limits."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    if (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        limits.append(limit)
    # A cluster or container limits a group of processes, or one above it.
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        group = Path("/sys/fs/cgroup") / next(line for line in lines if line.startswith("0::")).removeprefix("0::/")
        texts = [path.read_text() for parent in (group, *group.parents) if (path := parent / "memory.max").is_file()]
        limits += [int(text) for text in texts if text.strip() != "max"]
    return min(limits)


# Every draw is a function of (seed, purpose, counters), never of earlier draws. So a resumed run equals an
# uninterrupted one, and draws do not depend on ranks, shards or batch sizes.


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """Mixes a run seed, a purpose and counters into 63 bits (non-negative)."""
    text = "/".join([str(int(seed)), purpose, *(str(int(c)) for c in counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, purpose: str, *counters: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` for one purpose, e.g. ``generator(seed, "psi", step, rank)``."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *counters))


Tensors = Mapping[str, "torch.Tensor"]
#: Calls before the recording, in which libraries choose their kernels and allocate their workspace.
_WARM_UP = 2


class RecordingError(Exception):
    """The kernels of a function cannot be recorded as a CUDA graph; the message gives the reason."""


@contextlib.contextmanager
def restored(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Restores the values of tensors at the end of the context."""
    # The copies lie on the CPU: a recording already takes the peak of the device's memory.
    copies = [tensor.to("cpu", copy=True) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, copies):
            tensor.copy_(value)


class Recording:
    """A CUDA graph of a function of tensors on a GPU.

    The function may draw from the device's global torch generator, which advances as in a direct call, but must not
    read a value on the CPU. Each replay reads and writes the memory of the tensors that the recording saw.

    Args:
        function: Takes and returns tensors by name.
        inputs: Tensors with the shapes, dtypes and device of all later calls.
        pool: ``torch.cuda.graph_pool_handle()``: memory shared with other recordings, which must not run at the same
            time; use the outputs before the next one runs. None allocates separate memory.
        protected: Tensors that the calls before the recording may change; their values are restored.

    Raises:
        RecordingError: The function reads a value on the CPU, or fails.
    """

    def __init__(
        self,
        function: Callable[[Tensors], Tensors],
        inputs: Tensors,
        pool: Any = None,
        protected: Sequence[torch.Tensor] = (),
    ) -> None:
        self.inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        self.graph = torch.cuda.CUDAGraph()
        device = next(iter(self.inputs.values())).device
        random = torch.cuda.get_rng_state(device)
        with restored(protected):
            try:
                self._record(function, pool, device)
            except (RuntimeError, RecordingError) as error:
                # torch's generator would stay in the state of a recording, in which no later kernel can draw (seen with
                # torch 2.11; pytorch/pytorch issue 171263). A copy of its state is outside of it.
                default = torch.cuda.default_generators[device.index]
                default.graphsafe_set_state(default.clone_state())
                first = str(error).strip().splitlines() or [type(error).__name__]
                raise RecordingError(f"a step's kernels cannot be recorded ({first[0]})") from None
            finally:
                torch.cuda.synchronize(device)
                torch.cuda.set_rng_state(random, device)

    def _record(self, function: Callable[[Tensors], Tensors], pool: Any, device: torch.device) -> None:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                function(self.inputs)
        torch.cuda.current_stream(device).wait_stream(side)
        # Other threads read data ahead and write states meanwhile. Only the current device is recorded.
        with torch.cuda.device(device), torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.outputs = dict(function(self.inputs))

    def __call__(self, inputs: Tensors) -> Tensors:
        """Runs the kernels on new inputs; all calls return the same output tensors with new values."""
        for name, tensor in inputs.items():
            self.inputs[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.outputs


_ROOT = Path(sida.__file__).resolve().parent.parent


@functools.cache
def source_digest() -> str:
    """First 12 hexadecimal digits of the SHA-256 over all Python sources of ``sida``, with plugins, and ``eval``."""
    digest = hashlib.sha256()
    # A checkout has links to plugins and eval, which rglob does not follow.
    folders = [_ROOT / package for package in ("sida", "sida/plugins", "sida/eval")]
    for path in sorted({path for folder in folders for path in folder.rglob("*.py")}):
        digest.update(str(path.relative_to(_ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def code_version() -> str:
    """``<package version>+<git commit or 'nogit'>[.dirty]``; an installed wheel has the commit in its version."""
    # An installed package may lie in another project's repository.
    if not (_ROOT / ".git").exists():
        return _installed_version() or f"{sida.__version__}+nogit.{source_digest()}"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changes = git("status", "--porcelain", "--", "sida", "eval", "plugins")
    except (OSError, subprocess.CalledProcessError):
        return f"{sida.__version__}+nogit.{source_digest()}"
    return f"{sida.__version__}+{commit}" + (f".dirty.{source_digest()}" if changes else "")


def _installed_version() -> str | None:
    """Version of the installed wheel if it names a commit and the wheel's files are those that run."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        package = importlib.metadata.distribution("sida-repro")
        if "+" in package.version and package.locate_file("sida") == _ROOT / "sida":
            return package.version
    return None


def now() -> str:
    """UTC time, ISO 8601, to the second; ``SOURCE_DATE_EPOCH`` overrides it."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def device_name(device: str = "cpu") -> str:
    """Name of the device for people: model of the GPU, or model and number of the processors and threads in use."""
    if str(device).startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu ({processor_name()}, {threads} thread{'s' * (threads != 1)})"


def num_cores() -> int:
    """Number of cores that this process may use, which a scheduler limits to those of the job."""
    return len(os.sched_getaffinity(0))


@functools.cache
def processor_name() -> str:
    """Number and model of the processors (or their architecture); the last digits of results depend on them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    facts = dict(re.findall(r"^(cpu family|model|model name)\s*: (.+)$", text, re.MULTILINE))
    # Virtual machines hide the name, not the numbers.
    name = " ".join(re.sub(r"\((R|TM)\)", "", facts.get("model name", platform.machine())).split())
    if {"cpu family", "model"} <= facts.keys():
        name = f"{name}, family {facts['cpu family']} model {facts['model']}"
    return f"{os.cpu_count() or 1} × {name}"


def environment(device: str | None = "cpu") -> dict[str, Any]:
    """Versions and facts about the machine, for the record of a measured number.

    Args:
        device: Device that computed the number; None describes the processor without importing torch.
    """
    return {
        "code_version": code_version(),
        "date": now(),
        "device": f"cpu ({processor_name()})" if device is None else device_name(device),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch") if device is None else torch.__version__,
        "numpy": importlib.metadata.version("numpy"),
    }
