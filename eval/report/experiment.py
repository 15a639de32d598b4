"""Writes the page of one experiment: question, prediction and answer, with its tables and figures."""

from __future__ import annotations

from pathlib import Path

from eval.claims.evidence import Evidence
from eval.claims.experiments import Experiment
from eval.claims.model import load_claims
from eval.claims.verdicts import decide
from eval.claims.write import verdicts_record
from eval.report.answers import answer_block, answers_of
from eval.report.index.write import write_index
from eval.results.published import load_published
from eval.results.sheet import read_runs
from eval.results.summary import Measurements, load_measurements
from eval.tables.text import markdown
from sida.config.mapping import from_mapping, load_spec
from sida.errors import UserError
from sida.files.atomic import write_hashed_json, write_text


def write_experiment(
    spec: str | Path,
    claims: str | Path,
    results: str | Path,
    out: str | Path,
    *,
    measurements: str | Path | None = None,
    own: str | Path | None = None,
    again: str = "",
) -> tuple[list[Path], str]:
    """Decides the claims of an experiment and writes its page.

    Args:
        spec: JSON file with ``experiment`` (its entry in the file of experiments) and ``runs`` (the rows it needs).
        claims: File of claims; the claims of the experiment are decided.
        results: Folder of the preset, with the tables, figures and training logs.
        out: ``.html`` page; the verdicts (``.json``) and the answer (``.md``) are written beside it.
        measurements: Measurements of the rows; None: nothing was measured.
        own: Folder of the preset, see :func:`~eval.report.index.write_index`.
        again: Command that makes the page again, shown on the page.

    Returns:
        The files, and the answer in one line.

    Raises:
        UserError: Faulty files, or a claim that is not in the file.
    """
    folder, out = Path(results), Path(out)
    if out.suffix != ".html":
        raise UserError(f"--out {out}: must end in .html; .md and .json are written beside it")
    experiment = from_mapping(Experiment, load_spec(str(spec)).get("experiment", {}), f"{spec}: experiment")
    known = {claim.id: claim for claim in load_claims(claims)}
    if missing := [name for name in experiment.claims if name not in known]:
        raise UserError(f"{claims}: has no claim {', '.join(missing)}, which experiment '{experiment.id}' names")
    measured = load_measurements(measurements) if measurements else Measurements([], "no measurements")
    sheet = {run.run: run for run in read_runs(spec)}
    evidence = Evidence(measured, sheet, load_published(), folder / "students")
    verdicts = decide([known[name] for name in experiment.claims], evidence, str(claims))
    write_hashed_json(out.with_suffix(".json"), verdicts_record(verdicts, {}))
    (answer,) = answers_of([experiment], out.with_suffix(".json"), measured)
    text = f"# {markdown(experiment.title)}\n\n{answer_block(answer, _picture(experiment, folder), evidence=True)}\n"
    write_text(out.with_suffix(".md"), text)
    write_index(folder, out, experiment.title, own, again, only=experiment)
    return [out, out.with_suffix(".md"), out.with_suffix(".json")], answer.summary


def _picture(experiment: Experiment, folder: Path) -> str:
    there = [name for name in experiment.figures[:1] if (folder / "figures" / f"{name}.png").is_file()]
    return f"../figures/{there[0]}.png" if there else ""
