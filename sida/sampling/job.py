"""Sampling from named networks: the job of ``sida sample``, and a generator for Python."""

import contextlib
import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from sida.assets.cache import cache_dir, file_lock
from sida.assets.registry import Asset, is_counted, load_registry
from sida.config.datasets import dataset_spec
from sida.config.families import DECODERS, NULL_LABEL
from sida.config.labels import LabelCounts
from sida.config.samplers import Sampler, read_sampler
from sida.config.settings import Count, Settings, from_mapping, load_spec
from sida.data import Dataset, load_dataset
from sida.data.archive import folder_digest
from sida.data.load import counts_of
from sida.errors import Progress, SettingError, UserError, counted, one_line
from sida.files.atomic import sha256_file
from sida.files.tensors import starts_as_pickle
from sida.machine import environment, keep_freed_memory, num_cores, process_rank, take_device, tf32
from sida.networks.file import load_network, read_metadata
from sida.networks.folders import NetworkFolder
from sida.networks.official import describe_file, find_source, import_network
from sida.sampling.generate import Drawer, Samples
from sida.sampling.guidance import Unlabelled
from sida.sampling.store import SampleStore, open_sample_store, save_grid, write_all

_MOST_SEEDS, _MOST_LISTED = 1 << 32, 10_000_000


@dataclasses.dataclass(frozen=True)
class SampleConfig(Settings):
    """Settings of a sampling job; the flags of ``sida sample``.

    Attributes:
        network: File, asset id or address; null only for the ``data`` sampler.
        seeds: Text such as ``0-49999`` or ``3,8,100-163``.
        out: Folder of PNG files, or ``.npz``; null writes only the grid.
        sampler: Text or mapping, see :func:`sida.sampling.read_sampler`; σ_init: see :func:`sampler_for`.
        batch_size: Images per network call.
        class_labels: ``uniform``, ``balanced``, ``empirical``, class counts (a ``.json`` file as in ``config/labels``,
            its content, or an asset), or a class.
        dataset: Spec, or a name in ``config/datasets.yaml``.
        gnet: Guiding network; ``null`` is the network itself without a class.
        vae: Folder of the decoder of latent networks; null takes the registered one.
        grid: PNG to write as well.
        grid_size: Rows × columns.
        shard_size: Images per shard, rounded up to whole batches.
        device: Torch device; null takes a GPU if there is one.
        threads: CPU threads of torch; null leaves its choice.
    """

    network: str | None = None
    seeds: str = "0-63"
    out: str | None = None
    sampler: dict[str, Any] | str = "one_step"
    batch_size: Count = 64
    class_labels: int | str | dict[str, Any] = "uniform"
    dataset: dict[str, Any] | str | None = None
    gnet: str | None = None
    vae: str | None = None
    grid: str | None = None
    grid_size: str = "10x10"
    shard_size: Count = 1024
    device: str | None = None
    threads: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out is None and self.grid is None:
            raise SettingError("out", "nothing to write", "give --out or --grid")
        if self.out is not None and Path(self.out).suffix == ".zip":
            fault = "zip files are not written any more"
            raise SettingError("out", fault, "name a folder, the same data set, or FILE.npz")

    @property
    def whole_shard_size(self) -> int:
        """``shard_size`` rounded up to whole batches."""
        return -(-self.shard_size // self.batch_size) * self.batch_size


def run_job(config: SampleConfig) -> Iterator[str]:
    """Does the job, without TF32, and yields a line for each written output.

    Raises:
        UserError: A setting is wrong, a file is missing, the target holds other samples, or a process without others
            has not all of them in the end.
    """
    with tf32(False):
        rank, world, _ = process_rank()
        seeds, (rows, columns) = parse_seeds(config.seeds), _grid_size(config.grid_size)
        if config.threads:
            torch.set_num_threads(config.threads)
        keep_freed_memory()
        if config.grid is not None and Path(config.grid).suffix.lower() != ".png":
            raise UserError("grid", f"must end in .png, got '{config.grid}'")
        if config.grid is not None and seeds[0] + rows * columns > _MOST_SEEDS:
            fault = f"its seeds {seeds[0]}–{seeds[0] + rows * columns - 1} go beyond 2^32 - 1"
            raise UserError("grid", fault, "begin with a smaller seed")
        source = _Source(config)
        # Refuses contradicting settings before the target exists.
        source.drawer.draw(seeds[:1], config.batch_size, source.class_labels)
        if config.out is not None:
            store = open_sample_store(config.out, seeds, config.whole_shard_size, source.record(config))
            _fill(store, source, config, rank, world)
            if store.finish():
                evaluations = counted(source.sampler.nfe, "network evaluation")
                yield f"{config.out}: {counted(len(seeds), 'image')}, {evaluations} each"
            elif world == 1:
                fault = f"its shards in {store.parts.folder} are not all there, although they were written"
                raise UserError(config.out, fault, "look whether something removes or damages them, then run it again")
            else:
                yield f"{config.out}: this share ({rank + 1}/{world}) is finished, others are not yet"
        if config.grid is not None and rank == 0:
            first = seeds[0]
            save_grid(config.grid, source.drawer.grid(rows, columns, first, config.batch_size), columns)
            yield f"{config.grid}: {rows} × {columns} images, seeds {first}–{first + rows * columns - 1}"


def parse_seeds(text: str) -> Sequence[int]:
    """Parses seeds such as ``0-49999`` or ``3,8,100-163``; a single range is returned as a ``range``.

    Raises:
        UserError: The text has another form, a falling range, or a seed twice.
    """
    parts = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,15})\s*(?:-\s*(\d{1,15})\s*)?", part, re.ASCII)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise UserError("seeds", f"'{part}' is not a seed or a rising range", "write 0-49999 or 3,8,100-163")
        parts.append(range(int(match[1]), int(match[2] or match[1]) + 1))
        if parts[-1].stop > _MOST_SEEDS:
            raise UserError("seeds", f"'{part}' goes beyond 2^32 - 1, where the official tools begin again at 0")
    if len(parts) == 1:
        return parts[0]
    if sum(map(len, parts)) > _MOST_LISTED:
        raise UserError("seeds", f"more than {_MOST_LISTED:,} in several ranges", "draw one range at a time")
    seeds = [seed for part in parts for seed in part]
    if len(set(seeds)) < len(seeds):
        raise UserError("seeds", f"'{text}' names a seed twice", "list each once")
    return seeds


class _Source:
    """Opened networks, data set and class rule of a job."""

    def __init__(self, config: SampleConfig) -> None:
        self.device = open_device(config.device)
        network = None if config.network is None else network_file(config.network)
        guiding = guide_file(config.gnet)
        self.files = network, guiding
        self.sampler = sampler_for(network, config.sampler)
        if config.network is None and self.sampler.needs_network:
            raise UserError("network", "give --network FILE (only the sampler 'data' needs none)")
        net = None if network is None else load_network(network, self.device)[0]
        guide = None if net is None else open_guide(guiding, net, self.device, "gnet")
        self.dataset = _dataset(config.dataset)
        self.class_labels = _class_rule(config.class_labels)
        self.drawer = Drawer(self.sampler, net, guide, lambda: self.dataset, config.vae, self.device)

    def record(self, config: SampleConfig) -> dict[str, Any]:
        """Returns everything that decides the samples, for the record stored next to them."""
        rule = self.class_labels
        network, guide = (guide_digest(file) for file in self.files)
        return {
            "format": "sida-samples-1",
            "network_sha256": network,
            "guide_sha256": guide,
            "vae": decoder_digest(config.vae),
            "sampler": self.sampler.facts(),
            "nfe": self.sampler.nfe,
            "seeds": config.seeds,
            "shard_size": config.whole_shard_size,
            "batch_size": config.batch_size,
            "class_labels": rule.name if isinstance(rule, LabelCounts) else rule,
            "dataset": None if self.dataset is None else self.dataset.describe(),
            "data_sha256": self._data_digest(),
            "info": {"network": config.network, "environment": environment(self.device)},
        }

    def _data_digest(self) -> str | None:
        """Digest of the part of a data set that the samples use: images, classes, or class counts."""
        if not self.sampler.needs_network:
            return self.dataset.sha256 if self.dataset is not None else None
        if isinstance(self.class_labels, LabelCounts):
            return self.class_labels.sha256
        if self.dataset is None:
            return None
        if self.class_labels == "empirical" and self.dataset.label_dim:
            return hashlib.sha256(self.dataset.class_indices.numpy().tobytes()).hexdigest()
        return None


def _fill(store: SampleStore, source: _Source, config: SampleConfig, rank: int, world: int) -> None:
    """Makes the missing shards of this process."""
    if store.is_complete():
        return
    mine = store.places[rank::world]
    todo = [place for place in mine if not store.is_done(place)]
    seeds = [seed for place in todo for seed in store.shard_seeds(place)]
    total = sum(len(store.shard_seeds(place)) for place in mine)
    done = total - len(seeds)
    progress = Progress(f"sample {Path(str(config.out)).name}", total, done=done)

    def watched() -> Iterator[Samples]:
        nonlocal done
        # A single draw for all shards, so that the device does not wait between shards.
        for batch in source.drawer.draw(seeds, config.batch_size, source.class_labels):
            done += len(batch.seeds)
            progress.update(done)
            yield batch

    write_all(store, todo, watched(), workers=max(1, min(8, num_cores() - 1)))
    progress.update(total, force=True)


def _grid_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,3})[x×]([1-9]\d{0,3})", text)
    if not match:
        raise UserError("grid_size", f"'{text}' must be ROWSxCOLUMNS, e.g. 10x10")
    return int(match[1]), int(match[2])


def _class_rule(rule: int | str | dict[str, Any]) -> str | int | LabelCounts:
    if isinstance(rule, dict):
        return from_mapping(LabelCounts, rule, "class_labels")
    text = str(rule)
    if text.endswith(".json") or is_counted(text):
        return counts_of(text)
    return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else text


def open_device(name: str | None) -> str:
    """The device of that name, ready to use; None takes a GPU if there is one.

    Raises:
        UserError: Another text than ``cpu``, ``cuda`` or ``cuda:NUMBER``, or no such device here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{process_rank()[2]}"
    return str(take_device(name, "sample"))


def _dataset(spec: Mapping[str, Any] | str | None) -> Dataset | None:
    if spec is None:
        return None
    if isinstance(spec, str):
        is_text = spec.lstrip().startswith("{") or Path(spec).suffix in (".json", ".yaml", ".yml")
        spec = load_spec(spec, "dataset") if is_text else dataset_spec(spec, "dataset")
    return load_dataset(spec)


def network_file(source: str) -> Path:
    """Returns the path of a safetensors file for ``source``.

    Args:
        source: A ``.safetensors`` file; the folder of a run, of ``sida export`` or of another library
            (:func:`sida.networks.folders.open_folder`); a published ``.pkl``; or an id of ``config/assets.tsv`` or an
            address (:func:`sida.assets.registry.asset_at`), which is downloaded. Pickles and other libraries' folders
            are converted (never executed) once and cached under the digest of their bytes and the registry's network
            class, because the same bytes may be a network of EDM's or GDD's class.

    Raises:
        UserError: The source is neither a file nor a known id, or cannot be converted or downloaded.
    """
    path, asset = find_source(source)
    if isinstance(path, NetworkFolder):
        return _convert_cached(f"{path.sha256}-folder", path)
    architecture = None if asset is None else asset.architecture
    if architecture is None and not starts_as_pickle(path):
        return path
    variant = (asset and asset.network_class) or (architecture and architecture.stem)
    return _convert_cached(f"{sha256_file(path)}{f'-{variant}' if variant else ''}", path, asset)


def _convert_cached(digest: str, source: Path | NetworkFolder, asset: Asset | None = None) -> Path:
    """A network's file in the cache, converted at its first use."""
    name = f"converted/{digest}.safetensors"
    target = cache_dir() / name
    with file_lock(name):
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            import_network(source, target, asset)
    return target


def sampler_for(
    network: Path | None, sampler: Sampler | Mapping[str, Any] | str = "one_step", where: str = "sampler"
) -> Sampler:
    """Reads a sampler; one that gives no σ_init, steps, noise or levels takes those of the generator's training.

    Raises:
        UserError: A setting is wrong, here or in the network's file.
    """
    trained = None if network is None else trained_sampler(read_metadata(network), network)
    settings = {} if trained is None else trained.explicit_settings()
    if settings.get("num_steps") == 1:
        del settings["num_steps"]  # the default, which records do not name
    return read_sampler(sampler, where, settings)


def trained_sampler(metadata: Mapping[str, Any], network: str | Path) -> Sampler | None:
    """Sampler of a generator's training by the header of its file; None if the header has none.

    Raises:
        UserError: The header is wrong.
    """
    sampler = metadata.get("sampler")
    return read_sampler(sampler, f"{network}: sampler") if isinstance(sampler, dict) else None


def guide_file(guide: str | Path | None) -> str | Path | None:
    """File of a guiding network by the name of its source; the word ``null`` stays."""
    return guide if guide in (None, NULL_LABEL) else network_file(str(guide))


def open_guide(
    guide: str | Path | None, net: torch.nn.Module, device: str | torch.device, where: str = "guide"
) -> torch.nn.Module | None:
    """Guiding network of a file, or the network ``net`` without a class for ``null``; None without a guide.

    Raises:
        UserError: The file is not a network, or the network has no null label.
    """
    if guide is None:
        return None
    return Unlabelled(net, where) if guide == NULL_LABEL else load_network(guide, device)[0]


def guide_digest(guide: str | Path | None) -> str | None:
    """Digest of a network file, the word ``null``, or None without a guide."""
    return sha256_file(guide) if guide not in (None, NULL_LABEL) else guide


def decoder_digest(vae: str | None) -> str | None:
    """Identity of a decoder: the digest of its folder's files; None for the registered decoder.

    Args:
        vae: As for :class:`sida.sampling.Drawer`. A name of a registered decoder is returned.
    """
    return folder_digest(vae) if vae is not None and Path(vae).is_dir() else vae


def is_registered_decoder(vae: str | None) -> bool:
    """Whether a decoder's weights are registered ones, byte for byte; nobody knows what trained any other.

    Args:
        vae: As for :class:`sida.sampling.Drawer`.
    """
    if vae is None or vae in DECODERS:
        return True
    registry = load_registry()
    for name in DECODERS:
        asset = registry[name]
        weights, cached = Path(vae) / PurePosixPath(asset.target).name, cache_dir() / asset.target
        digest = asset.sha256 or (sha256_file(cached) if cached.is_file() else "")
        if digest and weights.is_file() and sha256_file(weights) == digest:
            return True
    return False


class LoadedGenerator:
    """A network with a sampler; :func:`load` makes one.

    Attributes:
        path: Network file (safetensors) that was loaded.
        sampler: How images are drawn.
        guide: File of the guiding network, ``null``, or None.
        vae: Folder of the decoder of latents; None takes the registered one.
        device: Torch device.
        net: The network, for calls of your own: ``g.net(x, sigma, class_labels)``.
    """

    def __init__(self, path: Path, sampler: Sampler, guide: str | Path | None, vae: str | None, device: str) -> None:
        self.path, self.sampler, self.guide, self.vae, self.device = path, sampler, guide, vae, device
        self.net, _ = load_network(path, device)
        guiding = open_guide(guide, self.net, device)
        self._drawer = Drawer(sampler, self.net, guiding, vae=vae, device=device)

    def __repr__(self) -> str:
        sampler = f"{self.sampler.kind}:{self.sampler.steps}"
        return f"LoadedGenerator('{self.path}', sampler='{sampler}', classes={self.label_dim}, device='{self.device}')"

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """Architecture, parameters, digest and provenance of the file: the facts of ``sida info --json``."""
        return describe_file(self.path)

    @property
    def label_dim(self) -> int:
        """Number of classes; 0 for a network without classes."""
        return self._drawer.label_dim

    def sample(
        self,
        count: int | Sequence[int],
        seed: int = 0,
        classes: int | Sequence[int] | None = None,
        batch_size: int = SampleConfig.batch_size,
    ) -> np.ndarray:
        """Draws images, equal byte by byte to those of ``sida sample`` at the same batch size on the same device.

        Args:
            count: Number of images, for the seeds ``seed … seed + count − 1``; or the seeds themselves.
            seed: First seed.
            classes: One class for all images, or a class for each; None draws classes uniformly, by seed.
            batch_size: Images per network call; other sizes may change single levels by 1.

        Returns:
            uint8 ``(N, C, H, W)``, in the order of the seeds.

        Raises:
            UserError: A number, seed or class that is not whole, no image asked for, a seed that is negative or beyond
                2^32 − 1, a class that the network does not have, or a broken network.
        """
        number, first = _integers("count", count), _integers("seed", seed, axes=0)
        size = _integers("batch_size", batch_size, axes=0)
        seeds = range(first, first + number) if isinstance(number, int) else number
        if not seeds or min(seeds) < 0 or max(seeds) >= _MOST_SEEDS:
            got = one_line(f"{number} from seed {first}", 100)
            raise UserError("sample", f"takes at least one image, and seeds from 0 to 2^32 - 1, got {got}")
        self._drawer.device = str(next(self.net.parameters()).device)
        class_rule = "uniform" if classes is None else _integers("classes", classes)
        with tf32(False):
            return torch.cat([part.images for part in self._drawer.draw(seeds, size, class_rule)]).numpy()


def _integers(name: str, value: Any, axes: int = 1) -> Any:
    """A whole number, or a list of them if there may be an axis, of Python, numpy or torch."""
    with contextlib.suppress(ValueError, TypeError, RuntimeError):  # of lists that are no array
        numbers = np.asarray(value)
        whole = numbers.size == 0 or (numbers.dtype.kind in "iu" and int(numbers.max()) < 1 << 63)
        if whole and numbers.ndim <= axes:
            return numbers.tolist()
    form = "a whole number or a list of them" if axes else "a whole number"
    raise UserError(f"sample: {name}", f"must be {form}, got {one_line(repr(value), 100)}")


def load(
    source: str | Path,
    sampler: str | Mapping[str, Any] | Sampler = "one_step",
    guide: str | Path | None = None,
    vae: str | None = None,
    device: str | None = None,
) -> LoadedGenerator:
    """Loads a generator or teacher.

    >>> g = sida.load("results/demo/students/sida-a1.0/network.safetensors")
    >>> images = g.sample(64, seed=0)

    Args:
        source: Network file, folder of a run or of ``sida export``, published pickle, id of ``sida assets list``, or
            address (``https://``, ``hf://``). The file of an id or address is fetched and checked at first use.
        sampler: ``one_step``, with σ_init of the network's training, or ``heun:18`` for a teacher; settings as of
            ``sida sample --sampler``.
        guide: Guiding network of a sampler with guidance; named like ``source``, or ``null``: the network itself
            without a class.
        vae: Folder of the decoder of latent networks; None takes the registered one.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes a GPU if there is one.

    Raises:
        UserError: No such file or id, a damaged file, or settings that the sampler does not have.
    """
    guiding = guide_file(guide)
    path = network_file(str(source))
    return LoadedGenerator(path, sampler_for(path, sampler), guiding, vae, open_device(device))
