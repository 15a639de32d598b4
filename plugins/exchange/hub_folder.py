"""A generator as a folder for the Hugging Face Hub.

A run of this suite: weights, model card with measurements, diffusers pipeline, and one Python file that draws
the network's images with torch and safetensors alone, made of this package's sources. A generator from outside: its
code, its row, and a card.
"""

import ast
import contextlib
import dataclasses
import importlib
import inspect
import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCardData

from sida.config.registries import PACKAGE, Registry
from sida.config.samplers import GeneratorSteps, Sampler
from sida.config.settings import load_spec
from sida.errors import UserError
from sida.eval.measuring.functions import CallableSource, ProgramFile
from sida.eval.measuring.protocol import protocol_named
from sida.eval.measuring.source import names_function
from sida.eval.results.bibliography import cited_label
from sida.eval.results.measurements import Measurement, Measurements, measured_in
from sida.eval.results.trial_files import RESCORE, score_of
from sida.eval.tables.build import make_table
from sida.eval.tables.render import markdown_cell, template, to_markdown
from sida.files.atomic import atomic_folder, read_hashed_json, write_json, write_text
from sida.files.ordinary import file_below
from sida.machine import code_version, to_device
from sida.methods.registry import METHODS
from sida.networks.file import NETWORKS, checked_network
from sida.networks.official import describe_file
from sida.plugins.exchange.hub_results import benchmark_entries, write_entries
from sida.sampling.job import load, sampler_for
from sida.sampling.samplers import multi_step, one_step, to_uint8
from sida.sampling.store import save_grid
from sida.sampling.streams import SeedStreams

#: Modules that the file does without, and their replacement there: its settings are checked here, and its classes need
#: no registry.
_LEFT_OUT = {
    "sida.config.settings": "def Range(**bounds: float) -> None:\n    return None",
    "sida.config.registries": (
        f"PACKAGE = \"{PACKAGE}\"\n\n\ndef Registry(table: str, noun: str, base: str = '') -> dict:\n    return {{}}"
    ),
}
_CODE = Path(__file__).parent / "hub"


def model_source(network: Mapping[str, Any], where: Path, sampler: Sampler) -> str:
    """Text of ``model.py``: the modules behind a network class in the order of their imports, then the sampler.

    Args:
        network: ``{"class", "kwargs"}`` of a network file.
        where: The file.
        sampler: Its steps.

    Raises:
        UserError: A custom class, whose code is not this package's, or arguments that the class does not take.
    """
    if network["class"] not in NETWORKS:
        raise UserError(where, "its network class is not of this package", "export its code yourself")
    cls, arguments = checked_network(network)
    half = arguments.pop("half_dtype", None)
    order: list[str] = []
    _visit(cls.__module__, order)
    tail = (_CODE / "model_tail.py").read_text(encoding="utf-8")
    trees = {name: _source(name) for name in order if name not in _LEFT_OUT}
    imports = _imports([*trees.values(), tail, "import dataclasses"])
    parts = [f"# {'-' * 20} {name}\n\n{_LEFT_OUT.get(name) or _body(trees[name])}" for name in order]
    head = (
        f'"""{network["class"]}, a generator, with everything that it needs from sida-repro {code_version()} '
        '(Apache-2.0).\n\nMade by `sida export`; needs torch and safetensors alone.\n"""\n\n'
    )
    text = f"{head}from __future__ import annotations\n\n{imports}\n\n"
    parts_of_sampler: tuple[Any, ...] = (to_device, SeedStreams, GeneratorSteps, one_step, multi_step, to_uint8)
    source = "\n\n".join(map(inspect.getsource, parts_of_sampler)) + "\n\n"
    source += f"#: Number of steps and their noise levels.\nSTEPS = {sampler.generator_steps!r}\n\n\n"
    source += f"def build() -> Precond:\n    net = {cls.__name__}({_arguments(arguments)})\n"
    source += f"    net.half_dtype = torch.{half}\n" if half else ""
    source += "    return net"
    return text + "\n\n\n".join([*parts, f"# {'-' * 20} this network\n\n\n{source}", _body(tail)]) + "\n"


def _visit(name: str, order: list[str]) -> None:
    """Adds a module behind the modules of this package that it imports."""
    if name in order:
        return
    if name not in _LEFT_OUT:
        for node in ast.walk(ast.parse(_source(name))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("sida"):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    _visit(inner if _is_module(inner) else str(node.module), order)
    order.append(name)


def _is_module(name: str) -> bool:
    package, _, last = name.rpartition(".")
    home = importlib.import_module(package)
    return inspect.ismodule(getattr(home, last, None)) and not hasattr(home, "__getattr__")


def _source(name: str) -> str:
    return inspect.getsource(importlib.import_module(name))


def _imports(texts: Iterable[str]) -> str:
    """Import statements of modules for other packages, each name once."""
    plain: set[str] = set()
    names_of: dict[str, set[str]] = {}
    for node in (node for text in texts for node in ast.parse(text).body):
        if isinstance(node, ast.Import):
            plain |= {ast.unparse(node)}
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith(("sida", "__future__")):
            names_of.setdefault(str(node.module), set()).update(ast.unparse(alias) for alias in node.names)
    return "\n".join(
        [*sorted(plain), *(f"from {name} import {', '.join(sorted(names_of[name]))}" for name in sorted(names_of))]
    )


def _body(text: str) -> str:
    """A module without its docstring and its imports.

    Raises:
        UserError: An import inside a function, which would not find this package.
    """
    tree, lines = ast.parse(text), text.splitlines()
    for node in tree.body:
        docstring = node is tree.body[0] and isinstance(node, ast.Expr)
        if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (int(node.end_lineno or 0) - node.lineno + 1)
    rest = "\n".join(lines).strip()
    if "from sida" in rest or "import sida" in rest:
        raise UserError(
            "model.py", "a module of sida/networks imports this package inside a function", "import it above"
        )
    return rest


def _arguments(values: Mapping[str, Any]) -> str:
    """Python text of keyword arguments with plain values; infinity, too."""
    return ", ".join(f"{k}=" + ('float("inf")' if v == float("inf") else repr(v)) for k, v in values.items())


#: Images of the card's picture.
PICTURED = 64
_TASK = "unconditional-image-generation"


def write_hub_folder(run: Path, out: Path, licence: str, benchmarks: Mapping[str, tuple[str, str]]) -> None:
    """Writes the folder of a network; ``hf upload`` stays the user's own command.

    Args:
        run: Folder of a training (``results/demo/students/sida-a1.0``), or a network file.
        out: Folder to make.
        licence: Identifier of the licence, as the Hub has them.
        benchmarks: See :func:`sida.plugins.exchange.hub_results.benchmark_entries`.

    Raises:
        UserError: No network there, one that is a pickle or of a custom class, or a benchmark's metric that was not
            measured.
    """
    network = file_below(run, "network.safetensors") if run.is_dir() else run
    facts = describe_file(network)
    if facts["format"] == "pickle":
        raise UserError(network, "is a pickle", f"convert it first: sida convert {network} network.safetensors")
    name = run.resolve().name if run.is_dir() else str(facts.get("name") or network.stem)
    # Results of its preset: results/demo of results/demo/students/x/network.safetensors.
    results = (network.resolve().parents[2:3] or [network.parent])[0]
    spec = file_below(results, f"specs/students/{name}.json")
    measurements = measured_in(results)
    own = eval_results(_of_file(measurements, facts), measurements, _dataset(facts))
    entries = benchmark_entries(own, benchmarks)
    with atomic_folder(out) as folder:
        generator, sampler = load(network), sampler_for(network)
        use = None
        if writer := Registry[Any]("hub_folders", "writer").get(facts["network"]["class"]):
            use = writer(folder, network, generator.net, sampler)
        if use is None:
            _write_own(folder, network, facts["network"], sampler)
        if pictured := generator.net.img_channels in (1, 3):
            _save_samples(folder, torch.from_numpy(generator.sample(PICTURED)))
        if spec.is_file():
            write_text(folder / "recipe.json", json.dumps(load_spec(str(spec)), indent=1, sort_keys=True) + "\n")
        card = model_card(name, facts, measurements, licence, spec.is_file(), pictured, generator.sampler.steps, use)
        write_text(folder / "README.md", card)
        write_entries(folder, entries)


def _write_own(folder: Path, network: Path, config: Mapping[str, Any], sampler: Sampler) -> None:
    """Writes a network as a component of a pipeline, with its code."""
    component = folder / "generator"
    component.mkdir()
    shutil.copyfile(network, component / "network.safetensors")
    write_json(component / "config.json", {"_class_name": "OneStepGenerator", **config})
    write_text(component / "model.py", model_source(config, network, sampler))
    shutil.copyfile(_CODE / "pipeline.py", folder / "pipeline.py")
    classes = {"_class_name": ["pipeline", "OneStepPipeline"], "generator": ["model", "OneStepGenerator"]}
    write_json(folder / "model_index.json", classes | {"_diffusers_version": "0.27.0"})


def write_generator_folder(
    generator: str, out: Path, row: str, table: str | None, licence: str, benchmarks: Mapping[str, tuple[str, str]]
) -> None:
    """Writes the folder of a generator from outside; ``hf upload`` stays the user's own command.

    Args:
        generator: ``module:function``, or a file of torch.export or TorchScript; it is run, with the user's permission.
        out: Folder to make.
        row: File of ``sida score --out`` with the measurements of this very generator.
        table: Layout of the table that the row is shown in.
        licence: Identifier of the licence, as the Hub has them.
        benchmarks: See :func:`sida.plugins.exchange.hub_results.benchmark_entries`.

    Raises:
        UserError: The measurements are of another generator, or the code is not a single file.
    """
    record = read_hashed_json(row, RESCORE)
    measurements = score_of(record, row)
    name, scored = measurements.runs[0], record["measurements"][0].get("source", {})
    source, code, use = _opened(generator, scored, row)
    # What is not known is not equal.
    identity = {key: value for key, value in source.identity().items() if value is not None}
    if different := [key for key in (*identity, *scored) if key not in identity or scored.get(key) != identity[key]]:
        raise UserError(row, f"was measured with another generator than {generator} ({different[0]})", "score it again")
    table_row = None if table is None else _row(table, row, name)
    results = eval_results(measurements.rows, measurements, "unknown")
    entries = benchmark_entries(results, benchmarks)
    with atomic_folder(out) as part:
        shutil.copyfile(code, part / code.name)
        shutil.copyfile(row, part / "row.json")
        batches = source.stream(0, PICTURED, PICTURED)
        images = torch.cat([batch.images.cpu() for batch in batches])
        if pictured := images.shape[1] in (1, 3):
            _save_samples(part, images)
        card = _card(
            "own.md.jinja",
            name=name,
            code=code.name,
            **use,
            pictured=pictured,
            results=results,
            table=table,
            row=table_row,
            licence=licence,
        )
        write_text(part / "README.md", card)
        write_entries(part, entries)


def _opened(generator: str, scored: dict[str, Any], row: str) -> tuple[CallableSource, Path, dict[str, Any]]:
    """The generator as it was scored, the file of its code, and how the card draws with it."""
    if names_function(generator):
        source = CallableSource(generator)
        module, _, name = generator.partition(":")
        file = inspect.getsourcefile(source.module) if source.module else None
        if file is None or Path(file).name == "__init__.py" or "." in module:
            raise UserError(generator, "is not a function of a single file", "put it into a module of one file")
        source_object = getattr(source.module, name)
        call = f"{name}()" if inspect.isclass(source_object) else name
        call += ".eval()" if inspect.isclass(source_object) and issubclass(source_object, torch.nn.Module) else ""
        return source, Path(file), {"module": module, "function": name, "call": call}
    if not scored.get("latent"):
        raise UserError(row, f"has no measurements of the program {generator}", "score it: sida score FILE")
    path, latent = Path(generator), tuple(scored["latent"])
    function = ProgramFile(path, latent)
    use = {"latent": latent, "exported": function.format == "torch.export"}
    return CallableSource(str(scored.get("callable")), function=function), path, use


def _row(layout: str, row: str, name: str) -> str:
    """The row of a table in Markdown, under the table's head."""
    table = make_table(layout, scores=[row])
    rows = tuple(line for line in table.rows if any(cell.text == name for cell in line.cells))
    return to_markdown(dataclasses.replace(table, rows=rows, notes=()))


def _save_samples(folder: Path, images: torch.Tensor) -> None:
    """Saves the picture of the card."""
    save_grid(folder / "samples.png", images, math.isqrt(PICTURED), scale=max(1, 32 // images.shape[-1]))


def model_card(
    name: str,
    facts: Mapping[str, Any],
    measurements: Measurements,
    licence: str,
    recipe: bool,
    pictured: bool,
    steps: int = 1,
    use: str | None = None,
) -> str:
    """The card: metadata with ``model-index``, then the same as text.

    Args:
        name: Id of the run.
        facts: :func:`sida.networks.official.describe_file` of the network.
        measurements: Measurements of its preset; only measurements of this file are taken, by its hash.
        licence: Identifier of the licence.
        recipe: Whether ``recipe.json`` is there.
        pictured: Whether ``samples.png`` is there.
        steps: Network evaluations of an image.
        use: How to draw images with the folder; None: by the code that this module writes.
    """
    parents, dataset = facts.get("parents"), _dataset(facts)
    results = eval_results(_of_file(measurements, facts), measurements, dataset)
    method, pace = plain(facts.get("method")), "one-step" if steps == 1 else "few-step"
    head = ModelCardData(
        license=licence,
        library_name="diffusers",
        pipeline_tag=_TASK,
        tags=["diffusion-distillation", pace, *([method, *_papers(method)] if facts.get("method") else [])],
        model_name=name if results else None,
        eval_results=results or None,
    )
    card = _card(
        "card.md.jinja",
        head=head.to_yaml().strip(),
        name=name,
        facts={key: facts.get(key) for key in _SHOWN},
        dataset=dataset,
        pictured=pictured,
        results=results,
        recipe=recipe,
        steps=steps,
        use=use,
        parents=parents if isinstance(parents, Mapping) else {},
        licence=licence,
    )
    return f"{card}\n"


def _dataset(facts: Mapping[str, Any]) -> str:
    data = facts.get("dataset")
    return plain(data.get("name") if isinstance(data, Mapping) else data)


def _of_file(measurements: Measurements, facts: Mapping[str, Any]) -> list[Measurement]:
    """Lines of a network's very file, by its hash."""
    return [row for row in measurements.rows if row.network_sha256 == facts["sha256"]]


#: Facts of a network that the card shows.
_SHOWN = ("method", "parameters", "network", "nimg", "config_sha256", "sha256", "code_version")


def _card(file: str, **facts: Any) -> str:
    """The card by a template of the folder ``hub``, whose filter ``plain`` is :func:`plain`."""
    return template(_CODE / file, plain=plain).render(**facts, written_by=code_version())


def _papers(method: str) -> list[str]:
    """Tags of the method's paper, by which the Hub links it."""
    entry = cited_label(METHODS[method].title if method in METHODS else method)[1]
    return [f"arxiv:{identifier}" for identifier in re.findall(r"\b\d{4}\.\d{5}\b", entry.bibtex)[:1]] if entry else []


def eval_results(lines: Iterable[Measurement], measurements: Measurements, dataset: str) -> list[EvalResult]:
    """Values of the runs and metrics of some lines, rounded as in tables."""
    rows = {(row.run, row.metric): row for row in lines}
    results = []
    for (run, key), row in rows.items():
        estimate, label, decimals = measurements.estimate(run, key), key, 4
        with contextlib.suppress(UserError):
            metric = protocol_named(row.protocol).metric(key)
            label, decimals = metric.label or key, metric.decimals
        args: dict[str, Any] = {"trials": estimate.trials, "images": row.n, "nfe": row.nfe, "protocol": row.protocol}
        args |= {"std": None if estimate.std is None else round(estimate.std, decimals)}
        args |= {
            "identity_sha256": row.identity.sha256,
            "date": max(line.date for line in measurements.lines(run, key)),
        }
        args |= {"saw": row.saw or "unknown"}
        value = round(estimate.mean, decimals)
        task: dict[str, Any] = {
            "task_type": _TASK,
            "task_name": "Image generation",
            "dataset_type": dataset,
            "dataset_name": dataset,
        }
        results.append(EvalResult(**task, metric_type=key, metric_name=label, metric_value=value, metric_args=args))
    return results


def plain(value: Any) -> str:
    """Text of a file's header: one line without HTML and links."""
    return markdown_cell(str("unknown" if value is None else value)[:200])
