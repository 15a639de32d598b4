"""Generators from outside: a Python function of seeds, or a program of torch in a file, as sources of images."""

from __future__ import annotations

import hashlib
import inspect
import logging
import marshal
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sida.config.lookup import check_code_path, code_sha256, foreign_faults, load_object
from sida.errors import UserError, reason_of
from sida.eval.features.inception import load_torchscript
from sida.eval.measuring.source import Duplicates, ImageBatch, Source, program_format
from sida.files.atomic import by_content, sha256_file
from sida.sampling.samplers import to_uint8
from sida.sampling.streams import SeedStreams


def as_batch(returned: Any, count: int, name: str) -> ImageBatch:
    """Checks and converts the images that a function returned for seeds.

    Args:
        returned: Images uint8 ``(N, C, H, W)``, or ``(images, classes)`` with whole numbers ``(N,)``.
        count: Number of seeds.
        name: Name of the function, for errors.

    Raises:
        UserError: The returned value is anything else.
    """
    images, classes = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    rule = f"must return uint8 images of shape ({count}, C, H, W), or (images, classes)"
    pixels = _tensor(images, name, rule)
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or len(pixels) != count:
        bytes_of = (
            "clamp(0, 255).to(torch.uint8)" if isinstance(images, torch.Tensor) else "clip(0, 255).astype('uint8')"
        )
        remedy = f"from [-1, 1]: (x * 127.5 + 128).{bytes_of}" if pixels.is_floating_point() else ""
        raise UserError(name, f"{rule}, got {pixels.dtype} {tuple(pixels.shape)}", remedy)
    if pixels.shape[3] in (1, 3) and pixels.shape[1] not in (1, 3):
        fault = f"{rule}, got {tuple(pixels.shape)}, which looks like (N, H, W, C)"
        raise UserError(name, fault, "return images.transpose(0, 3, 1, 2), in torch images.permute(0, 3, 1, 2)")
    if classes is None:
        return ImageBatch(pixels, None)
    rule = f"must return classes as whole numbers of shape ({count},)"
    labels = _tensor(classes, name, rule)
    if labels.shape != (count,) or labels.is_floating_point():
        raise UserError(name, f"{rule}, got {labels.dtype} {tuple(labels.shape)}")
    return ImageBatch(pixels, labels.to(torch.int64))


def _tensor(value: Any, name: str, rule: str) -> torch.Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(name, f"{rule}, got {type(value).__name__}") from None


_CALLED = "name a function of a list of seeds that draws with the network (docs/score.md, 'A function')"
#: Largest mean difference, in grey levels, of images that are drawn twice with the same seeds.
_ROUNDING = 0.5
#: Least difference of one image in two batches that is not rounding, as a share of the difference of two images.
_LIKE_OTHERS = 0.1


@dataclass
class CallableSource(Source):
    """A generator from outside: a Python callable ``function(seeds, **kwargs)``.

    The function returns uint8 images (N, C, H, W), or ``(images, classes)`` for a conditional generator.

    Args:
        name: ``module:object``.
        kwargs: Further arguments of each call.
        allow_duplicates: False refuses a generator that gives equal images for different seeds.
        function: The callable itself, where Python code has it at hand; else it is imported by its name.
    """

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    allow_duplicates: bool = False
    function: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        self.module: ModuleType | None
        if self.function is None:
            self.module, self._function = load_object(self.name, "sampler.callable", "function")
        else:
            # Cells of a notebook and unpickled functions have a name of a module at most.
            self.module, self._function = sys.modules.get(str(self.function.__module__)), self.function
        if not callable(self._function):
            kind = type(self._function).__name__
            raise UserError("sampler.callable", f"'{self.name}' is of type {kind}, not a function")
        if inspect.isclass(self._function):
            self._function = self._instance_of(self._function)
        self._duplicates = Duplicates(lambda seed: f"seed {seed} of {self.name}", "give each seed an image of its own")
        self._drawn_again = False
        #: Shape (C, H, W) of the images drawn so far.
        self.shape: tuple[int, ...] | None = None

    def _instance_of(self, kind: type) -> Callable[..., Any]:
        """An object of a class without arguments; a module is in evaluation mode."""
        if parameters := [p.name for p in inspect.signature(kind).parameters.values() if _is_needed(p)]:
            fault = f"is a class that needs {', '.join(parameters)}"
            raise UserError(self.name, fault, "name an object of it, or a function that draws with one")
        with foreign_faults(self.name, self.module):
            built = kind()
        if not callable(built):
            raise UserError(self.name, "is a class whose objects cannot be called", "name a function of seeds")
        return built.eval() if isinstance(built, torch.nn.Module) else built

    def identity(self) -> dict[str, Any]:
        """Name, arguments (files among them by their bytes), and source file or else code of the callable."""
        source = code_sha256(self.module, self._function)
        if source is None and (code := getattr(self._function, "__code__", None)):
            source = hashlib.sha256(marshal.dumps(code)).hexdigest()
        facts = getattr(self._function, "facts", {}) if isinstance(self._function, ProgramFile) else {}
        return {"callable": self.name, "kwargs": by_content(self.kwargs), "source_sha256": source, **facts}

    def stream(self, first: int, count: int, batch_size: int) -> Iterator[ImageBatch]:
        """Calls the function and checks what it returns; a part of the first batch is drawn again.

        Raises:
            UserError: The function fails, returns something else, other images for the same seeds, or equal images for
                two seeds.
        """
        for start in range(first, first + count, batch_size):
            batch_seeds = range(start, min(start + batch_size, first + count))
            batch = self._draw(batch_seeds)
            if not self._drawn_again:
                self._drawn_again, self.shape = True, tuple(batch.images.shape[1:])
                # A function may return one buffer in every call.
                batch = batch._replace(images=batch.images.clone())
                self._check_again(batch_seeds, batch.images)
            if not self.allow_duplicates:
                self._duplicates.check(batch.images.cpu().numpy(), batch_seeds[0])
            yield batch

    def _check_again(self, seeds: range, images: torch.Tensor) -> None:
        """Refuses a generator whose image depends on more than its seed, by one and by half of the images again."""
        half = len(seeds) // 2
        # Kernels of a GPU and low precision may round otherwise in another batch; different noise changes all values.
        allowed = max(_ROUNDING, _LIKE_OTHERS * _distance(images.roll(1, 0), images))
        for part in (slice(half, half + 1), slice(half, None)):
            if _distance(self._draw(again := seeds[part]).images, images[part]) > allowed:
                fault = f"gave other images for seeds {again[0]} to {again[-1]} in another batch"
                remedy = "let a random stream start from each seed, not once a batch, and put networks into eval()"
                raise UserError(self.name, fault, f"the same seed must always give the same image: {remedy}")

    def _draw(self, seeds: range) -> ImageBatch:
        with foreign_faults(self.name, self.module, f"{_CALLED}, or fix it there"):
            returned = self._function(list(seeds), **self.kwargs)
        return as_batch(returned, len(seeds), self.name)


def callable_name(function: Callable[..., Any]) -> str:
    """``module:object`` of a callable that Python code has at hand."""
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"


def _distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean difference in grey levels; infinite for images of other shapes."""
    return float((first.short() - second.short()).abs().float().mean()) if first.shape == second.shape else math.inf


def _is_needed(parameter: inspect.Parameter) -> bool:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in several


#: Setting of torch.export with which a file draws any number of images.
_ANY_BATCH = "export it for any number of images: dynamic_shapes=({0: torch.export.Dim('batch')},)"


class ProgramFile:
    """A program of torch in a file: ``file(z)`` gives images in [-1, 1], or uint8, for normal latents z.

    Args:
        path: File of ``torch.export.save`` (``.pt2``) or of TorchScript. It needs the user's permission.
        latent: Shape of the latents of one image; seed s draws its own.
        device: Torch device.

    Raises:
        UserError: No permission, or a damaged file.
    """

    def __init__(self, path: str | Path, latent: Sequence[int], device: str = "cpu") -> None:
        self.path, self._latent, self._device = Path(path), tuple(latent), device
        self.format = program_format(path)
        check_code_path(path, f"a file of {self.format or 'TorchScript'}, a program")
        exported = self.format == "torch.export"
        self._net = _load_exported(self.path, device) if exported else load_torchscript(self.path, torch.device(device))
        #: Part of the identity of the images.
        self.facts = {"script_sha256": sha256_file(self.path), "latent": list(self._latent)}

    def __call__(self, seeds: Sequence[int]) -> torch.Tensor:
        """Images of the seeds."""
        latents = SeedStreams(seeds).randn(self._latent).to(self._device)
        try:
            with torch.inference_mode():
                images = self._net(latents)
        # Programs of torch.export assert the shapes that they were made for.
        except (RuntimeError, AssertionError) as error:
            fault = f"fails on {len(seeds)} latents {self._latent} ({reason_of(error)[:200]})"
            remedy = f"give others by --latent, or {_ANY_BATCH}" if self.format == "torch.export" else ""
            raise UserError(self.path, fault, remedy or "give others by --latent") from None
        if not isinstance(images, torch.Tensor):
            raise UserError(self.path, f"must return a tensor of images, got {type(images).__name__}")
        return images if images.dtype == torch.uint8 else to_uint8(images)


def _load_exported(path: Path, device: str) -> Callable[..., Any]:
    """The program of a file of ``torch.export.save``, on a device.

    Raises:
        UserError: Broken file, or one of another version of torch.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torch logs the trace of an error that is raised as well
    try:
        program = torch.export.load(str(path))
        if torch.device(device).type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module()
    except Exception as error:  # of the parts of torch that read versions, names and weights
        fault = f"is not read by torch.export of torch {torch.__version__} ({reason_of(error)[:200]})"
        raise UserError(path, fault, "save it again by torch.export.save with this version") from None
    finally:
        logging.disable(before)
