"""Makes tables, data of figures and verdicts again from a results folder, and compares them byte for byte.

A product is made from its spec, which has its layout and its rows, and from the measurements and logs of the folder,
which :mod:`sida.workflow.archive.verify` compares with the trials. Nothing is written, and no code of the folder runs.
Files that cannot be made again are counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sida.config.lookup import ROOT
from sida.config.named_files import search_folders
from sida.config.settings import from_mapping, names_object
from sida.errors import UserError
from sida.eval.claims.claim import STUDIES
from sida.eval.claims.write import verdict_texts, verdicts_of_file
from sida.eval.figures.layout import Sources, figure_layout
from sida.eval.results.csv_files import read_csv
from sida.eval.results.extended import read_extended
from sida.eval.results.measurements import Measurements, load_measurements, measured_in
from sida.eval.results.sheet import SheetRow
from sida.eval.results.trial_files import read_measurement
from sida.eval.tables.build import RENDERERS, make_table
from sida.eval.tables.hyperparameters import HyperLayout
from sida.eval.tables.layout import table_layout
from sida.eval.tables.model import RECORD_FIELDS
from sida.files.atomic import sha256_json
from sida.files.text_files import parse_json, read_text
from sida.machine import code_version
from sida.workflow.archive.findings import Report, ignoring_faults

#: Files that a product has and that are not made again.
_PICTURES = (".png", ".pdf")
_PAGES = ("index.html", "paper.tex", "paper.pdf")


class _NotComparedError(Exception):
    """Reason why a product cannot be made again here."""


def check_products(report: Report) -> None:
    """Compares tables, data of figures and verdicts with those that are made again; counts and names the others."""
    compared: set[str] = set()
    made: dict[str, str] = {}
    for product, make in _products(report):
        files = [name for name in report.hashes if name.rpartition(".")[0] == product]
        with report.checking(product):
            try:
                texts = {f"{product}{suffix}": text for suffix, text in make().items()} if files else {}
            except _NotComparedError as reason:
                report.remark(product, f"not compared: {reason}")
                continue
            made |= texts
            for name, text in texts.items():
                _compare(report, name, text)
            compared |= texts.keys()
    for name in report.hashes:
        copied = next((product for product in made if PurePosixPath(product).name == PurePosixPath(name).name), None)
        if copied is not None and name not in compared and not name.startswith(("collected/", "specs/")):
            _compare(report, name, made[copied])
            compared.add(name)
    for name in report.hashes.keys() - compared:
        if description := _uncompared(report.folder, name):
            report.counts[f"{description}, not compared"] += 1


def _compare(report: Report, name: str, text: str) -> None:
    if name not in report.hashes:
        report.fault(name, "is missing, and other files of it are there; make it again")
        return
    with report.checking(name):
        content = (report.folder / name).read_bytes()
        if content == text.encode():
            report.counts["files of tables, figures and verdicts equal to those made again"] += 1
            return
        pairs = itertools.zip_longest(content.split(b"\n"), text.encode().split(b"\n"))
        line = next(number for number, (one, other) in enumerate(pairs, start=1) if one != other)
        made_by = report.manifest.environment["code_version"] if report.manifest else code_version()
        versions = f"; {made_by} made it, this is {code_version()}" if made_by != code_version() else ""
        report.fault(name, f"line {line} differs from the one that the measurements give{versions}; make it again")


def _products(report: Report) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
    """Yields the name of each product that has a spec, without suffix, and a function that makes its texts."""
    for name in report.hashes:
        path = PurePosixPath(name)
        if name == "specs/claims.json":
            yield "claims", lambda: _claims(report)
        elif path.suffix == ".json" and str(path.parent) in ("specs/tables", "specs/figures"):
            make = _table if path.parent.name == "tables" else _figure
            product = f"{path.parent.name}/{path.stem}"
            yield product, lambda make=make, product=product: make(report, product)  # type: ignore[misc]


def _spec(report: Report, product: str) -> tuple[dict[str, Any], dict[str, SheetRow]]:
    """Spec of a product, and its rows, whose names are those of their trials.

    Raises:
        UserError: A row has another name, method or group than its trials.
    """
    path = report.folder / f"specs/{product}.json"
    spec = parse_json(read_text(path), str(path))
    layout = spec.get("layout", {})
    if "layout" not in spec and "study" not in spec:
        raise _NotComparedError("its spec has no layout, since an earlier version made it")
    if names_object(str(layout.get("kind", ""))):
        raise _NotComparedError(f"its kind {layout['kind']} is code from outside")
    rows = [from_mapping(SheetRow, row, f"{path}: runs[{number}]") for number, row in enumerate(spec["runs"])]
    for row in rows:
        trial = report.trials.get(row.run)
        record = {} if trial is None else read_measurement(report.folder / trial)
        for key in ("label", "method", "family"):
            named, measured = getattr(row, key), record.get(key)
            if measured and measured != named:
                fault = f"{key} of row '{row.run}' is '{named}', and '{measured}' in {trial}"
                raise UserError(path, fault, "measure or make it again")
    if "layout" in spec and not _is_of_checkout(product, layout):
        report.counts["layouts that are not of this checkout, and are taken as they are"] += 1
    return spec, {row.run: row for row in rows}


def _is_of_checkout(product: str, layout: object) -> bool:
    """Whether a layout is the one that this checkout or a study in it has by the product's name."""
    files = (ROOT / folder / f"{product}.yaml" for folder in search_folders())
    return any(sha256_json(read_extended(file)) == sha256_json(layout) for file in files if file.is_file())


def _collected(folder: Path, product: str, names: Mapping[str, str]) -> Path | None:
    """The measurements of a product; None without."""
    name = f"collected/{product}.csv"
    return folder / name if name in names else None


def _table(report: Report, product: str) -> dict[str, str]:
    folder, (spec, _) = report.folder, _spec(report, product)
    layout = table_layout(spec["layout"], f"{PurePosixPath(product).name}.yaml")
    if isinstance(layout, HyperLayout):
        networks = [training["network"] for training in spec["students"].values()]
        if None in networks or any(PurePosixPath(run).name != run for run in layout.runs):
            raise _NotComparedError("it reads files beside the folder")
    table = make_table(
        layout,
        _collected(folder, product, report.hashes),
        folder / f"specs/{product}.json",
        mode=spec["mode"],
        spec=spec,
        results=folder,
    )
    return {suffix: render(table) for suffix, render in RENDERERS.items()}


def _figure(report: Report, product: str) -> dict[str, str]:
    folder, (spec, rows) = report.folder, _spec(report, product)
    layout = figure_layout(spec["layout"], f"{PurePosixPath(product).name}.yaml")
    data = layout.data(Sources(measured_in(_collected(folder, product, report.hashes)), rows, folder))
    if data is None:
        raise _NotComparedError("its images would be drawn again")
    return {".csv": data}


def _claims(report: Report) -> dict[str, str]:
    folder, (spec, rows) = report.folder, _spec(report, "claims")
    if spec["study"] not in STUDIES:
        raise _NotComparedError("its claims are code from outside")
    collected = folder / "measurements.csv"
    measured = load_measurements(collected) if collected.name in report.hashes else Measurements([], "no measurements")
    return verdict_texts(verdicts_of_file(ROOT / "studies" / spec["study"] / "claims.py", measured, rows, folder))


def _uncompared(folder: Path, name: str) -> str | None:
    """Description of a file that shows numbers and was not made again; None for any other file."""
    path = PurePosixPath(name)
    if path.suffix in _PICTURES and path.parent.name == "figures":
        return "pictures of figures"
    if name in _PAGES:
        return "pages"
    if path.parent.name in ("tables", "figures") and path.parts[0] not in ("collected", "specs"):
        return f"files of {path.parent.name}"
    if path.name in ("claims.md", "claims.json") and path.parts[0] != "specs":
        return "files of verdicts"
    with ignoring_faults():
        if path.suffix == ".csv" and {*RECORD_FIELDS} <= {*read_csv(folder / name)[0]}:
            return "files of tables"
    return None
