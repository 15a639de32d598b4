"""The preset `published`: the papers' numbers as tables and figures, with nothing fetched, trained or measured."""

from eval.results.published import load_published
from sida.config.resources import ROOT
from tests.studies.plans import dry_run
from tests.workflow.workspace import Workspace
from workflow.preset import Preset


def test_the_plan_builds_tables_and_figures_and_nothing_else(tmp_path):
    preset = Preset.load(ROOT / "studies/papers/published.yaml")
    jobs, _ = dry_run(tmp_path, "papers/published.yaml")
    assert (jobs["table"], jobs["figure"], jobs["claims"]) == (len(preset.layouts["tables"]), 3, 1)
    assert not {"fetch", "import_checkpoint", "train_teacher", "distill", "measure", "collect"} & set(jobs)


def test_table_8_and_figure_3_are_targets(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDA_OFFLINE", "1")
    workspace = Workspace(tmp_path)
    targets = ("results/published/tables/table8.tex", "results/published/figures/figure3.pdf")
    workspace.made("--configfile", "studies/papers/published.yaml", "--", *targets)
    results = workspace.folder / "results" / "published"
    table = (results / "tables" / "table8.md").read_text()
    published = load_published()
    for key in ("table8-sid-seconds-per-1k-images-cifar-10-sec-per-kimg", "table8-alpha-sida"):
        assert published[key].text in table
    assert "configured" not in table
    assert "not measured" not in table
    lines = (results / "figures" / "figure3.csv").read_text()
    assert published["table3-dmd-fid"].text in lines
    assert (results / "figures" / "figure3.pdf").read_bytes().startswith(b"%PDF")
    # The published numbers lie in this folder too; its tables are not taken for them.
    assert {path.name for path in results.glob("*.csv")} == {"published.csv"}
