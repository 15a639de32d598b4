"""Makes a new study: a folder with the files of a study in `studies/`, and its data.

The files are made from templates in the folder ``study``, whose variables ``$name`` depend on the data; its
``sizes.yaml`` has the sizes, rates and metrics. Width, lengths, micro-batches and measured images are the largest that
fit the time and the memory of a card or of processor cores, by the costs that `sida plan` shows.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import string
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from sida.config.families import check_images
from sida.config.settings import Count, Positive, from_mapping, load_yaml
from sida.errors import UserError, settings_in, visible
from sida.files.atomic import atomic_folder
from sida.networks import network_latents
from sida.plugins.planner.pictures import check_listed, first_picture, prepared
from sida.workflow.planning.costs import Costs
from sida.workflow.preset import load_preset

STUDY_FILES = (
    *("preset.yaml", "runs.tsv", "README.md", "protocols/own.yaml", "tables/main.yaml"),
    *("figures/samples.yaml", "figures/convergence.yaml"),
)
_TEMPLATES = Path(__file__).parent / "study"
#: File of an imported teacher.
TEACHER = "teacher.safetensors"
LATENTS = "a new study is of pictures, latents are a matter of custom presets"
#: Largest share that the classes of pictures add to the least hours.
UNREAD = 0.05
#: Largest number of classes whose names are listed.
_MOST_NAMES = 20


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Options of ``sida new``.

    Attributes:
        study: Folder to make; its name becomes the preset's.
        data: Pictures in a folder or zip, copied to ``data.zip``. A data set in the EDM format (with ``dataset.json``)
            is used in place unless resolution, channels or labels are given, or it has classes and the teacher none.
        teacher: Teacher instead of one that is trained: folder or ``hf://OWNER/NAME`` of a pipeline of diffusers, or
            any network that ``sida convert`` reads; converted to ``teacher.safetensors``. The pictures are cropped and
            scaled to its size, and have no classes if it has none.
        resolution: Height and width to crop and scale to; null: the pictures' own.
        channels: 3 (RGB) or 1 (grey); null: grey if all pictures are grey, else RGB.
        labels: Labels as in ``sida data prepare``; null is ``auto``.
        gpu: Card of ``config/plan.yaml`` that everything has to fit; null: RTX4090, with 24 GB.
        cores: Processor cores that everything has to fit, instead of a card; null: 2 for small pictures.
        hours: Hours until the table.
    """

    study: str
    data: str
    resolution: int | None = None
    channels: Literal[1, 3] | None = None
    labels: Literal["auto", "folders", "none"] | None = None
    teacher: str | None = None
    gpu: str | None = None
    cores: Count | None = None
    hours: Positive = 8.0


def new_study(config: StudyConfig) -> list[str]:
    """Writes the folder of a study, complete or not at all.

    Returns:
        Lines for the user about written files and next steps.

    Raises:
        UserError: The folder exists, its name cannot name a preset, or the data are unsuitable.
    """
    study = Path(config.study)
    name = study.absolute().name.lower()
    if not re.fullmatch("[a-z][a-z0-9-]*", name):
        raise UserError(config.study, "the folder's name must be of a-z, 0-9 and '-' and begin with a letter")
    if study.exists():
        raise UserError(config.study, "exists already", "choose another folder or remove it")
    if config.gpu and config.cores:
        raise UserError("sida new --gpu", "does not go with --cores", "give one of them")
    check_listed(config.data)
    with atomic_folder(study) as part:
        teacher = None if config.teacher is None else _import_teacher(config, config.teacher, part)
        values = {"name": name, **_data_values(config, part, study, teacher)}
        values, remarks = _Fit(config, part, values).fitted()
    return [
        f"{config.study}: {values['images']:,} images {values['size']}, {values['classes']}; "
        f"files {', '.join(STUDY_FILES)}",
        *values["pictures"],
        *remarks,
        "look at preset.yaml, then:",
        f"  cd {config.study}",
        "  sida plan preset.yaml     (hours and memory; nothing runs)",
        "  sida run .",
    ]


#: Largest share of the time for measuring.
MEASURING = 0.25


class _Fit:
    """Sizes of a study that fit hours and memory, tried by writing its files into a folder.

    Args:
        config: Options.
        part: The folder.
        full: Values of the template's variables before anything is given up.
    """

    def __init__(self, config: StudyConfig, part: Path, full: Mapping[str, Any]) -> None:
        self._config, self._part, self._full, on_gpu = config, part, full, full["device"] != "cpu"
        cores = config.cores or 2
        self._card, self._workers = config.gpu or ("RTX4090" if on_gpu else "CPU"), 1 if on_gpu else cores
        self._where, self._least = self._card if on_gpu else f"{cores} cores", full["least"]
        self._widths = [width for width in (128, 96, 64, 32, 16) if width <= full["model_channels"]]
        if config.teacher is not None:
            self._widths = self._widths[:1]

    def _sizes(self, width: int, num_samples: int, trials: int) -> dict[str, Any]:
        """Values of a network of this width, and of measuring so many images."""
        metrics = _sizes()["metrics"]["pixels" if num_samples < 10000 else "inception"]
        plan = f"{{gpu: {json.dumps(self._card)}}}" if self._card != "CPU" else f"{{gpus: {self._workers}}}"
        measured = {"num_samples": num_samples, "trials": trials, **metrics}
        return {**self._full, "model_channels": width, "plan": plan, **measured}

    def _cost(self, values: Mapping[str, Any], share: float) -> _Cost:
        _write(self._part, {**values, **_short_lengths(self._full, share)})
        return _cost_of(self._part, self._card, self._workers)

    def check_hours(self, unread: float = 0.0) -> None:
        """Refuses hours in which the narrowest network, the shortest training and the fewest images do not fit.

        Args:
            unread: Largest share that pictures add that are not read yet, by their number of classes.

        Raises:
            UserError: So few hours, or an unknown card.
        """
        hours = self._cost(self._sizes(self._widths[-1], *self._full["measured"][-1]), self._least).hours
        if hours * (1 + unread) > self._config.hours:
            fault = f"no network and length fit {self._where}: the shortest study takes {hours:.2g} hours by plan"
            remedy = f"give --hours {math.ceil(100 * hours * (1 + unread)) / 100:g} or more"
            raise UserError(f"--hours {self._config.hours:g}", fault, remedy)

    def fitted(self) -> tuple[dict[str, Any], list[str]]:
        """Writes the files with the widest network, then the longest trainings, that fit.

        Returns:
            Values of the template's variables, and lines about the card and what was reduced.

        Raises:
            UserError: Nothing fits, or an unknown card.
        """
        self.check_hours()
        full, least, cost, most = self._full, self._least, self._cost, self._config.hours
        for width, (num_samples, trials) in itertools.product(self._widths, full["measured"]):
            sizes = self._sizes(width, num_samples, trials)
            sizes |= _micro_batches(sizes, lambda values: cost(values, least))
            planned = cost(sizes, least)
            fewest = [num_samples, trials] == full["measured"][-1]
            if planned.hours > most or planned.memory > planned.card_memory:
                continue
            if planned.measuring > MEASURING * most and not fewest:
                continue
            low, high = (1.0, 1.0) if cost(sizes, 1.0).hours <= most else (least, 0.99)
            while high / low > 1.02:
                share = (low * high) ** 0.5
                low, high = (share, high) if cost(sizes, share).hours <= most else (low, share)
            planned = cost(sizes, low)
            sizes |= _short_lengths(full, low)
            return sizes, [*self._lines(planned, sizes)]
        fault = f"no network fits the {planned.card_memory:.0f} GB of {self._where}"
        raise UserError("sida new", fault, "name a larger card (--gpu) or another teacher")

    def _lines(self, planned: _Cost, sizes: Mapping[str, Any]) -> Iterator[str]:
        """Lines about the card, and what was reduced."""
        most, imported = self._config.hours, self._config.teacher is not None
        yield f"for {self._where}: {planned.hours:.1f} hours and {planned.memory:.0f} GB by plan (--hours {most:g})"
        names = {key: name for key, name in _GIVEN_UP.items() if not (imported and name.startswith("teacher"))}
        changes = ((name, self._full[key], sizes[key]) for key, name in names.items())
        given_up = [f"{name} {before:,g} → {after:,g}" for name, before, after in changes if before != after]
        if given_up:
            yield f"given up for that: {', '.join(given_up)}"


#: Variables that are reduced, with their names for people.
_GIVEN_UP = {
    "model_channels": "channels",
    "teacher_kimg": "teacher's kimg",
    "student_kimg": "students' kimg",
    "num_samples": "images of a trial",
    "trials": "trials",
    "teacher_batch_gpu": "teacher's micro-batch",
    "student_batch_gpu": "students' micro-batch",
}


def _write(part: Path, values: Mapping[str, Any]) -> None:
    """Writes the files of the study."""
    values = {**values, "teacher": _fill_template(f"teacher-{values['teacher_kind']}.yaml", values)}
    for file in STUDY_FILES:
        (part / file).parent.mkdir(exist_ok=True)
        (part / file).write_text(_fill_template(file, values), encoding="utf-8")


def _fill_template(file: str, values: Mapping[str, Any]) -> str:
    """A template with its values."""
    return string.Template((_TEMPLATES / file).read_text(encoding="utf-8")).substitute(values)


def _short_lengths(values: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Lengths of trainings and of their phases, as a share of the template's."""
    teacher, student = (_two_digits(values[f"{kind}_kimg"] * share) for kind in ("teacher", "student"))
    return {
        "teacher_kimg": teacher,
        "student_kimg": student,
        "lr_rampup_kimg": min(values["lr_rampup_kimg"], _two_digits(teacher / 10)),
        "warmup_kimg": min(values["warmup_kimg"], _two_digits(student / 20)),
        "adversarial_kimg": min(values["adversarial_kimg"], _two_digits(student / 10)),
        "teacher_tick": min(values["teacher_tick"], _two_digits(teacher / 20)),
        "student_tick": min(values["student_tick"], _two_digits(student / 20)),
        "every_kimg": _two_digits(student / 10),
    }


def _two_digits(kimg: float) -> float:
    """Two digits."""
    return float(f"{kimg:.2g}")


@dataclasses.dataclass(frozen=True)
class _Cost:
    """Hours until the table, hours of measuring, GB of the largest job, by kind, and the card's GB."""

    hours: float
    measuring: float
    by_kind: Mapping[str, float]
    card_memory: float

    @property
    def memory(self) -> float:
        return max(self.by_kind.values())


def _cost_of(part: Path, card: str, workers: int) -> _Cost:
    """Cost of a study by the costs of its jobs."""
    preset = load_preset(part / "preset.yaml")
    costs = Costs(preset, card)
    teachers = [costs.of("teachers", name) for name in preset.trained_teachers]
    students = {run.run: costs.of("students", run.run) for run in preset.students}
    measurement_hours = {run: costs.of("measurements", run) for run in preset.measurable}
    hours = lambda jobs: sum(job.gpu_hours + job.cpu_hours for job in jobs)
    total = hours([*teachers, *students.values(), *measurement_hours.values()])
    # SiD2A waits for the teacher and for SiD.
    chain = hours([*teachers, *(students[run] for run in ("sid", "sid2a")), measurement_hours["sid2a"]])
    memory = {"teacher": max((job.memory_gb for job in teachers), default=0.0)}
    memory["student"] = max(job.memory_gb for job in students.values())
    return _Cost(max(total / workers, chain), hours(measurement_hours.values()) / workers, memory, costs.gpu.memory_gb)


def _micro_batches(values: Mapping[str, Any], cost: Callable[[Mapping[str, Any]], _Cost]) -> dict[str, int]:
    """The largest micro-batches whose trainings fit the card."""
    batches: dict[str, int] = {}
    for kind in ("teacher", "student"):
        batch = values[f"{kind}_batch"]
        for size in (size for size in range(batch, 0, -1) if batch % size == 0):
            batches[f"{kind}_batch_gpu"] = size
            planned = cost({**values, **batches})
            if planned.by_kind[kind] <= planned.card_memory:
                break
    return batches


def _import_teacher(config: StudyConfig, source: str, part: Path) -> dict[str, Any]:
    """Writes a teacher's ``teacher.safetensors``; returns its ``{class, kwargs}``.

    Raises:
        UserError: The network does not exist, draws latents, or is for another size or colour than the options.
    """
    from sida.networks.official import find_source, import_network

    path, asset = find_source(source)
    network: dict[str, Any] = import_network(path, part / TEACHER, asset)["network"]
    if network_latents(network) is not None:
        raise UserError(source, "draws latents", LATENTS)
    for key in ("resolution", "channels"):
        value, own = getattr(config, key), network["kwargs"].get(f"img_{key}")
        if value not in (None, own):
            raise UserError(f"--{key} {value}", f"the teacher {source} has {own}", "leave the option out")
    return network


def _data_values(config: StudyConfig, part: Path, study: Path, teacher: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values of template variables that depend on the data; prepares pictures into ``data.zip``."""
    from sida.data import ImageArchive
    from sida.data.archive import Files
    from sida.data.arrays import find_arrays
    from sida.data.prepare import PrepareConfig

    wishes = {key: value for key in ("resolution", "channels", "labels") if (value := getattr(config, key)) is not None}
    packed = find_arrays(config.data, "train", labels=False) is not None
    ready = not (wishes or packed) and Files(config.data).find("dataset.json") is not None
    if ready and teacher is not None and not teacher["kwargs"].get("label_dim"):
        # Pictures for a teacher without classes have none.
        ready = not ImageArchive(config.data).label_dim
    if teacher is not None and not ready:
        kwargs = teacher["kwargs"]
        wishes = {"resolution": kwargs["img_resolution"], "channels": kwargs["img_channels"], **wishes}
        wishes = wishes if kwargs.get("label_dim") else {"labels": "none", **wishes}
    if "resolution" in wishes:
        _settings(config, wishes["resolution"])
    names, pictures = [], []
    if ready:
        data = Path(config.data).resolve()
        beside = data.is_relative_to(study.parent.resolve())
        path = os.path.relpath(data, study.resolve()) if beside else str(data)
        kind, dataset = "folder" if data.is_dir() else "zip", ImageArchive(config.data)
    else:
        crop = "center-crop" if "resolution" in wishes else "none"
        flags = {"source": config.data, "out": str(part / "data.zip"), "transform": crop, "channels": None, **wishes}
        if (first := first_picture(config.data, config.resolution, teacher)) is not None:
            defaults = {"kind": "zip", "path": '"data.zip"', "pictures": [], "class_names": "[]"}
            values = defaults | _size_values(config, first, []) | _teacher_values(config, first, teacher)
            _Fit(config, part, {"name": "x", **values}).check_hours(UNREAD)
        preparation = prepared(from_mapping(PrepareConfig, flags, "sida new"))
        names = [visible(" ".join(name.split())) for name in preparation.class_names]
        pictures = [preparation.summary]
        path, kind, dataset = "data.zip", "zip", ImageArchive(str(part / "data.zip"))
    if not dataset.is_pixels:
        raise UserError(config.data, "holds latents", LATENTS)
    return {
        "kind": kind,
        "path": json.dumps(path, ensure_ascii=False),
        "pictures": pictures,
        "class_names": json.dumps(names, ensure_ascii=False),
        **_size_values(config, dataset, names),
        **_teacher_values(config, dataset, teacher),
    }


def _teacher_values(config: StudyConfig, dataset: Any, teacher: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values of template variables about the teacher.

    Raises:
        UserError: A teacher is for other images or classes than the pictures.
    """
    if teacher is None:
        return {"teacher_kind": "trained", "teacher_id": "edm", "teacher_label": "EDM teacher"}
    images = {"resolution": "img_resolution", "num_channels": "img_channels", "label_dim": "label_dim"}
    with settings_in(f"--teacher {config.teacher}:"):
        check_images(teacher["kwargs"], {name: getattr(dataset, key) for key, name in images.items()}, config.data)
    values = {
        "teacher_network": json.dumps(teacher, ensure_ascii=False),
        "teacher_source": visible(str(config.teacher)),
    }
    return {"teacher_kind": "imported", "teacher_id": "teacher", "teacher_label": "Teacher", **values}


def _settings(config: StudyConfig, resolution: int) -> dict[str, Any]:
    """Sizes and rates for a resolution.

    Raises:
        UserError: No sizes and rates fit this resolution.
    """
    sizes = _sizes()
    on_cpu = bool(config.cores) or (not config.gpu and resolution <= sizes["largest_on_cpu"])
    device = "cpu" if on_cpu else "cuda"
    scales = sizes[device]
    scale = next((scale for scale in scales if resolution <= scale["largest"]), scales[-1] if config.teacher else None)
    size, most = f"{resolution}×{resolution}", scales[-1]["largest"]
    if scale is None:
        remedy = "train on latents (sida data encode) with a custom preset"
        raise UserError(config.data, f"{size} is more than {most}×{most}", f"give --resolution {most}, or {remedy}")
    levels = 2 ** scale["channel_mult"].count(",")
    if resolution % levels and not config.teacher:
        multiple = resolution - resolution % levels or levels
        raise UserError(config.data, f"{size} must be a multiple of {levels}", f"give --resolution {multiple}")
    return {**sizes["bases"][scale["base"]], **scale, "device": device}


def _sizes() -> dict[str, Any]:
    return load_yaml(_TEMPLATES / "sizes.yaml")


def _size_values(config: StudyConfig, dataset: Any, names: list[str]) -> dict[str, Any]:
    resolution = dataset.resolution
    values = _settings(config, resolution)
    for key in ("teacher_batch", "student_batch"):
        values[key] = min(values[key], len(dataset))
        values[f"{key}_gpu"] = values[key]
    values["gpus"] = int(values["device"] != "cpu")
    class_list = f": {', '.join(names)}" if 0 < len(names) <= _MOST_NAMES else ""
    rows, columns = (min(10, dataset.label_dim), 6) if dataset.label_dim else (8, 8)
    return values | {
        "resolution": resolution,
        "channels": dataset.num_channels,
        "label_dim": dataset.label_dim,
        "images": len(dataset),
        "counted": f"{len(dataset):,}",
        "size": f"{resolution}×{resolution}×{dataset.num_channels}",
        "classes": f"{dataset.label_dim} classes{class_list}" if dataset.label_dim else "no classes",
        "title": f"{Path(config.study).name}, {resolution}×{resolution}",
        "rows": rows,
        "columns_of_images": columns,
        "upscale": max(1, 64 // resolution),
    }
