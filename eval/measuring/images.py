"""Images in files under a protocol, and all that their list shows: protocol, trials, sizes.

This module does not import torch, so that what a list shows is refused at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.assets.registry import is_address, load_registry
from sida.config.registries import additions
from sida.config.settings import names_object
from sida.data.archive import Files
from sida.data.arrays import holds_images
from sida.errors import UserError
from sida.eval.features.registry import ON_PROCESSOR
from sida.eval.measuring.protocol import Protocol, load_protocol
from sida.eval.measuring.stores import ImageStore
from sida.files.content import NETWORK, first_bytes, kind_of_file


def names_network(source: str) -> bool:
    """Whether a text names a network: a file, the folder of a run, of ``sida export`` or of a plugin's library, an id
    or an address.

    A file of tensors may hold images instead; a damaged one counts as a network, whose reader says more.
    """
    path = Path(source)
    if path.is_dir():
        names = ("network.safetensors", "generator/network.safetensors", *additions("network_folders"))
        return any((path / name).is_file() for name in names)
    start, images = b"", False
    with contextlib.suppress(UserError):
        start, images = first_bytes(path), holds_images(path)
    return (
        is_address(source)
        or (kind_of_file(path, start) == NETWORK and not images)
        or (not path.exists() and source in load_registry())
    )


#: Formats of files that are programs of torch, by the ends of names of their members.
_PROGRAMS = {"/archive_format": "torch.export", "serialized_exported_program.json": "torch.export"}
_PROGRAMS |= {"/constants.pkl": "TorchScript"}


def program_format(path: str | Path) -> str:
    """``torch.export`` or ``TorchScript`` for one of their files, by its members; empty for another file."""
    try:
        names = Files(path).names
    except UserError:
        return ""
    return next((kind for end, kind in _PROGRAMS.items() if any(name.endswith(end) for name in names)), "")


def names_function(source: str) -> bool:
    """Whether a text names a function, ``module:function``, and not a file of that name."""
    return names_object(source) and not Path(source).exists()


def check_second(protocol: Protocol, references: Container[str], where: str) -> None:
    """Refuses a protocol of two sets without the second one among the keys of the given references."""
    second_sets = [key for key, source in protocol.sources.items() if source.kind == "given"]
    if second_sets and not any(key in references for key in second_sets):
        raise UserError(where, f"protocol '{protocol.name}' compares two sets", "add --against FOLDER|ZIP|NPZ")


def check_size(shape: Sequence[int], protocol: Protocol, origin: str) -> None:
    """Checks that images (C, H, W) have the size that a protocol measures.

    Raises:
        UserError: The size differs; ``origin`` names the images.
    """
    channels, height, width = shape
    size = protocol.resolution
    # Feature networks repeat grey images to three channels, as the official tools do.
    fits = protocol.channels in (None, channels) or (channels, protocol.channels) == (1, 3)
    if not fits or (size is not None and (height, width) != (size, size)):
        plural = "" if protocol.channels == 1 else "s"
        expected = f"{protocol.channels or 'any'} channel{plural} of {size or 'any'}×{size or 'any'}"
        seen = f"images have {channels} channel{'s' * (channels > 1)} of {height}×{width}"
        remedy = "generate images of that size, or choose the protocol of this data set"
        why = "nothing is resized here, since that changes the numbers"
        raise UserError(origin, f"{seen}, protocol '{protocol.name}' measures {expected}", f"{remedy} ({why})")


def check_count(protocol: Protocol, count: int, where: str) -> None:
    """Refuses so few images that a metric cannot be computed."""
    for metric in protocol.metrics:
        if fault := metric.fault(count):
            raise UserError(where, f"has too few images ({metric.key}: {fault.partition(';')[0]})", "give more images")


def chosen_protocol(
    protocol: str | Path | Mapping[str, Any] | Protocol, num_samples: int | None = None, fast: bool = False
) -> Protocol:
    """The protocol of a score: under another name if it has another n; with feature networks for processors if fast.

    Raises:
        UserError: An unknown or faulty protocol, or fewer than two images.
    """
    new_protocol = load_protocol(protocol)
    if num_samples is not None and num_samples != new_protocol.num_samples:
        if num_samples < 2:
            raise UserError("--num-samples", f"must be at least 2, got {num_samples}")
        fitting = tuple(metric.for_samples(num_samples) for metric in new_protocol.metrics)
        name = f"{new_protocol.name}-n{num_samples}"
        new_protocol = dataclasses.replace(new_protocol, name=name, num_samples=num_samples, metrics=fitting)
        check_count(new_protocol, num_samples, f"--num-samples {num_samples}")
    if fast:
        replaced = tuple(dataclasses.replace(m, extractor=on_processor(m.extractor)) for m in new_protocol.metrics)
        new_protocol = dataclasses.replace(new_protocol, metrics=replaced)
    return new_protocol


def on_processor(extractor: str) -> str:
    """The variant of a feature network for processors; the network itself if it has none."""
    return ON_PROCESSOR.get(extractor, (extractor,))[0]


class TooFewError(UserError):
    """Fewer images than the trials of a protocol take.

    Attributes:
        more: Words for the images that are missing.
        fits: Images of a trial for which the images suffice.
    """

    def __init__(self, where: object, fault: object, remedy: object, more: str, fits: int) -> None:
        super().__init__(where, fault, remedy)
        self.more, self.fits = more, fits


def count_trials(images: ImageStore, protocol: Protocol, trials: int | None) -> int:
    """Number of trials that images in files allow, at most the protocol's or those asked for.

    Raises:
        UserError: Too few images; or images of a wrong size, whose message comes first.
    """
    n, present = protocol.num_samples, images.count
    complete = images.order.trials or present // n
    if complete < (trials or 1):
        check_first(images, protocol)
        count = trials or 1
        takes = f"{n:,} for each of {count} trials" if count > 1 else f"{n:,}"
        fits = present // count
        other = f", or give --num-samples {fits} (a number of its own, not comparable with the protocol's)"
        fault = f"holds {present:,} images, protocol '{protocol.name}' takes {takes}"
        more = f"generate {n * count - present:,} more"
        raise TooFewError(images.path, fault, f"{more}{other if fits >= 2 else ''}", more, fits)
    return trials if trials is not None else min(complete, protocol.trials)


def check_first(images: ImageStore, protocol: Protocol) -> None:
    """Refuses images of another size than the protocol's, by the first one."""
    images.side = protocol.resolution
    check_size(images.read(0, 1).shape[1:], protocol, str(images.path))


def pair_protocol(
    first: ImageStore | None, second: ImageStore, protocol: Protocol, trials: int | None, num_samples: int | None
) -> Protocol:
    """Protocol of a comparison of two sets of images; all images of both are measured.

    Raises:
        UserError: Several trials, too few images, or images of another size than the protocol's.
    """
    if trials not in (None, 1):
        raise UserError(f"--trials {trials}", "two sets are compared as a whole, in one trial", "leave the option out")
    if num_samples is None:
        # A function or network draws as many images as the second set has.
        num_samples = first.count if first is not None else min(second.count, protocol.num_samples)
    where = str(first.path) if first else "--num-samples"
    if num_samples < 2:
        raise UserError(where, f"a comparison takes two images or more, got {num_samples}")
    pair = protocol.against(num_samples)
    for store in filter(None, (first, second)):
        check_first(store, pair)
    check_count(pair, pair.num_samples, where)
    check_count(pair, second.count, str(second.path))
    return pair
