"""Files of presets: found by name, and read with the files that they change.

The keys of a preset file (``studies/<name>/preset.yaml``): types, ranges, defaults and descriptions.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from sida.config.datasets import DatasetSettings, Transform
from sida.config.lookup import ROOT
from sida.config.recipe import NetworkConfig, Recipe, TeacherTraining
from sida.config.samplers import Sampler
from sida.config.settings import CheckedAs, Count, Device, Name, Natural, Pattern, Settings, load_yaml
from sida.errors import SettingError, UserError, suggestion
from sida.files.text_files import read_text


def find_preset(name: str | Path, where: str = "preset") -> Path:
    """Finds the file of a preset by its name, or by the path of its file or folder.

    Args:
        name: A name: ``studies/<name>/preset.yaml``, else ``studies/*/<name>.yaml``, here or in the
            checkout; or a path.
        where: File and key named in errors.

    Raises:
        UserError: No such preset; the message suggests the closest one.
    """
    path, known = Path(os.path.expanduser(name)), presets()
    is_name = len(path.parts) == 1 and not path.suffix
    if is_name and str(name) in known:
        return known[str(name)]
    given = [place / end for place in (path, ROOT / path) for end in ("", "preset.yaml")]
    found = next((file for file in given if os.path.isfile(file)), None)
    if found is not None:
        return found
    raise UserError(where, f"no preset '{name}'{suggestion(path.stem, known)}")


def presets() -> dict[str, Path]:
    """Files of all presets by name, sorted, from ``studies`` of the current folder and of the checkout.

    A preset has the name of its folder if its file is ``preset.yaml``, else the name of its file. Other YAML files
    there have neither a sample sheet (``runs``) nor a preset that they change (``base``).
    """
    found: dict[str, Path] = {}
    for place in (ROOT / "studies", Path("studies")):
        for path in place.glob("*/*.yaml"):
            # Another file, which is no text, is no preset.
            with contextlib.suppress(UserError):
                if any(line.startswith(("runs:", "base:")) for line in read_text(path).splitlines()):
                    found[path.parent.name if path.name == "preset.yaml" else path.stem] = path
    return dict(sorted(found.items()))


def read_preset(
    paths: Sequence[str | Path], changed: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], str, list[Path]]:
    """Reads files of a preset with those that they change (key ``base``).

    Args:
        paths: The files; keys of later files win.
        changed: Settings that win over those of all files, for example Snakemake's.

    Returns:
        Settings, files named in errors, and folders: the arguments of :class:`workflow.preset.Preset`.

    Raises:
        UserError: A file is missing or faulty, or files change each other.
    """
    files: dict[Path, dict[str, Any]] = {}
    for path in map(Path, paths):
        files |= dict(reversed(_with_bases(path).items()))
    config: dict[str, Any] = functools.reduce(_merged, [*files.values(), changed or {}], {})
    config.pop("base", None)
    folders = dict.fromkeys(file.parent for file in reversed(files))
    return config, ", ".join(map(str, paths)) or "config", list(folders)


def _with_bases(path: Path) -> dict[Path, dict[str, Any]]:
    """A file with those that it changes, the latest first."""
    found: dict[Path, dict[str, Any]] = {}
    following: Path | None = path
    while following is not None:
        if following in found:
            raise UserError(following, "base: goes in a circle", "remove one of them")
        found[following] = load_yaml(following)
        base = found[following].get("base")
        following = None if base is None else following.parent / str(base)
    return found


def _merged(config: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of a later file, mapping by mapping."""
    both = {
        key: _merged(config[key], value)
        for key, value in later.items()
        if isinstance(value, Mapping) and isinstance(config.get(key), Mapping)
    }
    return {**config, **later, **both}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherEntry:
    """A diffusion teacher: trained here (``network`` and ``training``) or imported (``checkpoint``).

    Attributes:
        network: Network to train from scratch; with a checkpoint: its architecture, for plans.
        training: Settings of the training; with a checkpoint they are used only with the preset's ``train_teachers``.
        checkpoint: Asset id, path or address of a published checkpoint.
        dataset: Name of the teacher's data set (default the preset's).
        seed: Training seed (default the preset's).
    """

    network: Annotated[dict[str, Any], CheckedAs(NetworkConfig)] | None = None
    training: Annotated[dict[str, Any], CheckedAs(TeacherTraining)] | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    seed: Natural | None = None

    def __post_init__(self) -> None:
        if self.checkpoint is None and (self.network is None or self.training is None):
            raise SettingError("checkpoint", "needs either network and training or checkpoint")
        if self.training is not None and self.network is None:
            raise SettingError("training", "needs the network that is trained", "add it")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeFrom(Settings):
    """Source of an archive: published files (``sida data prepare``) or another data set (``sida data encode``).

    Attributes:
        source: Asset id, or path of a folder or archive of pictures; see ``sida data prepare``.
        beside: Further assets that belong to the source and lie in its folder (labels).
        installed: Folder in which a package of the operating system keeps the source; if it exists, nothing is fetched.
        dataset: Data set of pixels to encode; not with ``source``.
        resolution: Height and width; null keeps those of the images.
        transform: Method of cropping images to squares, see ``sida data prepare``.
        labels: ``auto``, ``folders`` or ``none``.
        subset: ``train`` or ``test`` of CIFAR-10, of a folder of MNIST's format, or of folders that are named so.
        images: Number of images to stop after; null takes all.
    """

    source: str | None = None
    beside: tuple[str, ...] = ()
    installed: str | None = None
    dataset: str | None = None
    resolution: Count | None = None
    transform: Transform | None = None
    labels: Literal["auto", "folders", "none"] | None = None
    subset: Literal["train", "test"] | None = None
    images: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.source is None) == (self.dataset is None):
            raise SettingError("source", "needs either source or dataset, not both")
        others = (field.name for field in dataclasses.fields(self) if field.name != "dataset")
        if self.dataset is not None and any(getattr(self, name) for name in others):
            raise SettingError("dataset", "an encoded data set has no further settings", "remove them")

    @property
    def here(self) -> str | None:
        """The source's folder of the operating system, else the source."""
        return self.installed if self.installed and os.path.isdir(self.installed) else self.source


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetEntry(DatasetSettings):
    """A data set under its name, and the source of its archive.

    Attributes:
        made_from: Source from which the workflow makes a missing archive; null: the archive must exist.
    """

    made_from: Annotated[dict[str, Any], CheckedAs(MadeFrom)] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Stored results of a study that an extension takes unchanged rows from.

    Attributes:
        folder: Their folder.
        preset: The preset that they are results of.
        beside: Folder of the sheet with further rows.
        waiting: Rows that are neither taken nor run.
        added: Further rows, of which no claim speaks.
        sheet: The sheet without these.
    """

    folder: str
    preset: str
    beside: str
    waiting: str = ""
    added: str = ""
    sheet: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PresetSettings:
    """Keys of a preset file.

    Attributes:
        base: File beside this one with the keys that this file does not set, for a variant of a preset.
        preset: Name of the preset; results go to ``results/<preset>/``.
        title: Headline of the report.
        seed: Base seed, from which all random numbers of the run derive.
        runs: Sample sheet (TSV): one row per generator to measure.
        dataset: Name of a data set of the preset or of ``config/datasets.yaml``; a row of the sheet may name another.
        datasets: Further data sets by name; paths are relative to the preset's folder.
        protocol: Evaluation protocol, a name or a file: n, trials, metrics, references.
        second_protocols: Second protocols by the name of the first: a row with a network is measured under both, the
            second time as ``<run>.<protocol>``; a row's own ``second_protocol`` comes first.
        claims: File of claims to decide, which is code (``claims.py``); null for none.
        retraining: Scatter of a repeated training, a name in ``config/retraining`` or a file, by which a table says
            whether single trainings differ; null: unknown, so that none of them is bold.
        search: Preset whose trainings chose the recipes, a file beside this one; ``sida plan`` names the rows that have
            its seeds.
        stored: Stored results that unchanged rows are taken from, as `sida run --extend` writes it.
        tables: Layouts of ``config/tables`` to build.
        figures: Layouts of ``config/figures`` to build.
        table_mode: ``paper``: published numbers as printed; ``audit``: published and measured numbers; ``measured``:
            measured numbers.
        paper: Build ``paper.pdf`` from all tables and figures (needs LaTeX).
        device: Torch device of training, sampling and measuring: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads of each job; results depend on it.
        gpus: Number of GPUs of a training; sampling and measuring use one. 0 requests none from the scheduler.
        train_teachers: Train the teachers that have both ``training`` and ``checkpoint``; false downloads them.
        trials_per_job: Trials that one job measures for samplers of many steps, so that cores share them; null: all.
        samplers: Samplers by name; the sheet names one per row.
        teachers: Diffusion teachers by id, trained here or imported from a checkpoint.
        recipes: Distillation settings by name, in addition to those of files in ``recipes/``; the sheet adds method,
            teacher, alpha and seed.
    """

    base: str | None = None
    preset: Annotated[str, Pattern("[a-z][a-z0-9-]*", "of a-z, 0-9 and '-', first a letter")]
    title: str = ""
    seed: Natural = 0
    runs: str
    dataset: str
    datasets: dict[Name, Annotated[dict[str, Any], CheckedAs(DatasetEntry)]] = dataclasses.field(default_factory=dict)
    protocol: str
    second_protocols: dict[Name, str] = dataclasses.field(default_factory=dict)
    claims: str | None = None
    retraining: str | None = None
    search: str | None = None
    stored: Annotated[dict[str, Any], CheckedAs(StoredRows)] | None = None
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    table_mode: Literal["paper", "audit", "measured"] = "measured"
    paper: bool = False
    device: Device = "cpu"
    threads: Count = 1
    gpus: Natural = 0
    train_teachers: bool = False
    trials_per_job: Count | None = None
    samplers: dict[str, Annotated[dict[str, Any], CheckedAs(Sampler)]]
    teachers: dict[Name, TeacherEntry] = dataclasses.field(default_factory=dict)
    recipes: dict[str, Annotated[dict[str, Any], CheckedAs(Recipe)]] = dataclasses.field(default_factory=dict)
