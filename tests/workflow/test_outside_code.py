"""A study from a stranger runs none of its code before the user has said so; its names are told before."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sida.assets.registry import load_registry
from sida.config.lookup import ALLOW, ROOT, TYPED, allowed, load_object, our_object, path_allowed, source_file
from sida.config.samplers import Sampler
from sida.data import load_dataset
from sida.errors import UserError
from sida.eval.features import get_extractor
from sida.eval.features.registry import make_extractors
from sida.eval.measuring.functions import CallableSource
from sida.eval.measuring.monitor_settings import MONITOR
from sida.eval.metrics.kinds import METRIC_KINDS
from sida.methods import find_method
from sida.training.evaluation import Evaluation, evaluation_facts
from sida.workflow.checks import check_profile
from sida.workflow.cli import main
from sida.workflow.planning.site import load_site
from sida.workflow.preset import load_preset
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.files import find_preset
from tests.eval.metric_networks import write_inception
from tests.plugins import needs
from tests.refused import refused, refusing
from tests.workflow.workspace import forked_snakemake, put

EVIL = "import pathlib\npathlib.Path('was-here').touch()\n\n\ndef sample(seeds):\n    raise SystemExit\n"
ROW = {"run": "mine", "label": "Mine", "method": "external", "checkpoint": "evil:sample"}
PLAIN = {"run": "data", "label": "Data", "method": "data", "sampler": "data"}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Writes a stranger's study into the working folder; the user has allowed nothing yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(ALLOW, "")
    monkeypatch.setenv(TYPED, "")
    (tmp_path / "evil.py").write_text(EVIL)

    def write(row=PLAIN, protocol=None, **changes):
        (tmp_path / "runs.tsv").write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
        document = yaml.safe_load((ROOT / "tests/workflow/tiny-protocol.yaml").read_text())
        (tmp_path / "protocol.yaml").write_text(yaml.safe_dump({**document, **(protocol or {})}))
        preset = yaml.safe_load((ROOT / "docs/examples/my-digits.yaml").read_text())
        preset |= {"runs": "runs.tsv", "protocol": "protocol.yaml", "tables": []} | changes
        (tmp_path / "preset.yaml").write_text(yaml.safe_dump(preset))
        return Path("preset.yaml")

    yield write
    sys.modules.pop("evil", None)
    assert not (tmp_path / "was-here").exists()


METRICS = yaml.safe_load((ROOT / "tests/workflow/tiny-protocol.yaml").read_text())["metrics"]


RECIPE = {"total_kimg": 1, "batch_size": 8, "lr": 1e-3}
OURS = "sida.files.atomic:write_text"
#: How a study names an object, and where it is told.
NAMED = {
    "generator": (lambda name: {"row": {**ROW, "checkpoint": name}}, "runs.tsv: run 'mine'.checkpoint"),
    "method": (lambda name: {"row": {**PLAIN, "method": name}}, "runs.tsv: run 'data'.method"),
    "network": (
        lambda name: {"teachers": {"t": {"network": {"class": name, "kwargs": {}}, "checkpoint": "t.safetensors"}}},
        "preset.yaml: teachers.t.network.class",
    ),
    "data set": (lambda name: {"datasets": {"x": {"kind": name}}}, "preset.yaml: datasets.x.kind"),
    "judge": (
        lambda name: {"recipes": {"r": RECIPE | {"options": {"judges": ["digits", name]}}}},
        r"preset.yaml: recipes.r.options.judges\[1\]",
    ),
    **{
        key: (lambda name, key=key: {"protocol": {"metrics": [{**METRICS[0], key: name}]}}, rf"metrics\[0\].{key}")
        for key in ("kind", "extractor")
    },
}


def test_a_spec_calls_none_of_our_own_functions(study):
    study()
    monitor, kwargs = OURS, {"path": "was-here", "text": ""}
    settings = {"every_kimg": 1, "monitor": monitor, "kwargs": kwargs}
    data = load_dataset({"name": "digits", "kind": "digits", "max_size": 8})
    one_step = Sampler(kind="one_step")
    for told, call in (
        ("spec.evaluation.monitor: ", lambda: evaluation_facts(settings, {}, "spec.evaluation")),
        ("spec.evaluation.monitor: ", lambda: Evaluation(settings, data, one_step, "cpu", "spec.evaluation").monitor),
        ("", lambda: CallableSource(monitor, kwargs)),
        ("", lambda: load_dataset({"name": "x", "kind": monitor})),
        ("", lambda: find_method(monitor)),
        ("", lambda: get_extractor(monitor)),
        ("", lambda: METRIC_KINDS.find(monitor, "metrics[0].kind")),
    ):
        refused(f"{told}.* files may name", call)


def test_no_file_of_the_working_folder_takes_the_name_of_a_library(study, tmp_path, monkeypatch):
    study()
    for module in ("fractions", "torch", "evil"):
        (tmp_path / f"{module}.py").write_text("sample = 1\n")
    before = list(sys.path)
    load_object(MONITOR, "spec.evaluation.monitor")
    assert sys.path == before
    monkeypatch.setenv(ALLOW, "evil,fractions")
    assert load_object("evil:sample", "sampler.callable")[1] == 1
    refused("names a file; name its module: evil:sample", load_object, "evil.py:sample", "x")
    assert sys.path == [*before, str(tmp_path)]
    # A permitted name is that of the library, and the message of a refusal names the same file.
    assert Path(load_object("fractions:Fraction", "x")[0].__file__).resolve() != (tmp_path / "fractions.py").resolve()
    assert Path(source_file("fractions:Fraction")).is_absolute()


def test_a_spec_runs_no_program_of_torchscript(study, tmp_path, monkeypatch):
    study()
    (tmp_path / "pt").mkdir()
    script = str(write_inception(tmp_path / "pt" / "inception.pt"))
    for name in ("inception", "inception_clean"):
        with pytest.raises(UserError, match=rf"inception.pt: is .* permission.*{ALLOW}={tmp_path}"):
            make_extractors([name], options={name: {"path": script}})
    monkeypatch.setenv(ALLOW, f"evil,{tmp_path}/pt")
    assert get_extractor("inception", path=script).num_features == 12


@pytest.mark.parametrize("kind", NAMED)
def test_a_study_names_no_code_without_the_users_word_and_no_function_of_ours(study, kind):
    naming, where = NAMED[kind]
    refused(rf"{where}: 'evil:it' .* \(evil.py\).*{ALLOW}=evil$", lambda: load_preset(study(**naming("evil:it"))))
    with refusing(rf"'sida.+:\w+' .* files may name.*{ALLOW}=sida"):
        load_preset(study(**naming(OURS)))


@pytest.mark.parametrize(
    "changes", [{"row": {**PLAIN, "second_protocol": "second.yaml"}}, {"second_protocols": {"x": "second.yaml"}}]
)
def test_the_code_of_a_second_protocol_is_named(study, tmp_path, changes):
    put(tmp_path / "second.yaml", yaml.safe_dump({"name": "x", "metrics": [{**METRICS[0], "extractor": "evil:it"}]}))
    refused(rf"second.yaml: metrics\[0\].extractor: 'evil:it'.*{ALLOW}=evil$", lambda: load_preset(study(**changes)))


CLAIMS = """
from sida.eval.claims import *
CLAIMS = Claims("x")
@CLAIMS.claim("Q")
def q(evidence):
    "A statement."
    return equal(evidence, row("data", "table1-none"))
"""


def test_a_file_of_claims_runs_with_permission_alone_and_then_its_faults_are_told_before_the_run(
    study, tmp_path, monkeypatch
):
    put(tmp_path / "claims.py", EVIL)
    command = ["claims", "--claims", "claims.py", "--out", "out.md"]
    where = rf"preset.yaml: claims: 'claims.py' .*{ALLOW}={tmp_path}/claims.py$"
    refused(where, load_preset, study(claims="claims.py"))
    monkeypatch.setenv(TYPED, "no")
    assert main(command) == 1
    assert not (tmp_path / "was-here").exists()
    put(tmp_path / "claims.py", CLAIMS)
    monkeypatch.setenv(ALLOW, f"{tmp_path}/")
    preset = load_preset(study(claims="claims.py"))
    assert refused("no published number 'table1-none'", check_preset, preset).where == "claims.py: Q"
    # What is typed is the user's word.
    monkeypatch.setenv(ALLOW, "")
    monkeypatch.setenv(TYPED, "")
    put(tmp_path / "claims.py", CLAIMS.replace("table1-none", "table1-vp-edm-fid"))
    assert main(command) == 0
    assert (tmp_path / "out.json").is_file()


MINE = """
import eval, torch

def draw(seeds):
    noise = [torch.randint(128, (1, 8, 8), generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return (torch.stack(noise) + eval.LEVEL).byte()
"""


def test_a_folder_keeps_its_own_eval_and_workflow(tmp_path):
    """Names of everyday words beside a generator are the user's; the suite's begin with ``sida.``."""
    put(tmp_path / "eval/__init__.py", "LEVEL = 100")
    put(tmp_path / "workflow.py", EVIL)
    put(tmp_path / "mine.py", MINE)
    command = [sys.executable, "-m", "sida.workflow", "score", "mine:draw", "--protocol", "digits"]
    command += ["--num-samples", "40", "--trials", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "40/40 img" in done.stderr
    assert not (tmp_path / "was-here").exists()


def test_the_word_is_for_a_module_and_what_lies_below_it(monkeypatch):
    for word, name, wanted in (
        ("docs", "docs.examples.flow:FlowPrecond", True),
        ("x, docs.examples.flow", "docs.examples.flow:FlowPrecond", True),
        ("docs.examples.flow:FlowPrecond", "docs.examples.flow:FlowPrecond", True),
        ("docs.examples.flow:FlowPrecond", "docs.examples.flow:Other", False),
        ("docs.ex", "docs.examples.flow:FlowPrecond", False),
        ("", "docs.examples.flow:FlowPrecond", False),
        ("*", "any.thing:at_all", True),
        ("", "sida.eval.measuring.monitor:make_monitor", True),
        ("", "sida.training:distill", False),
        ("sida.training", "sida.training:distill", True),
    ):
        monkeypatch.setenv(ALLOW, word)
        assert allowed(name) is wanted, (word, name)


def test_the_file_that_would_run_is_found_without_running_its_packages(study, tmp_path):
    study()
    for name in ("__init__", "part"):
        put(tmp_path / f"pack/{name}.py", EVIL)
    assert source_file("pack.part:x") == "pack/part.py"
    assert source_file("pack:x") == "pack/__init__.py"
    assert source_file("nowhere.at.all:x") is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x = 1\ndef sample(seeds:\n", r"\(faulty.py, line 2: SyntaxError: '\(' was never closed\)"),
        ("raise SystemExit('a\\nb')\n", r"\(faulty.py, line 1: SystemExit: a b\)"),
        ("import faulty_part\n", r"\(faulty_part.py, line 2: ZeroDivisionError: division by zero\)"),
    ],
)
def test_a_fault_of_a_module_is_one_line_with_its_place(study, tmp_path, monkeypatch, text, fault):
    study()
    monkeypatch.setenv(ALLOW, "faulty")
    (tmp_path / "faulty.py").write_text(text)
    (tmp_path / "faulty_part.py").write_text("\n1 / 0\n")
    refused(f"^here: cannot import 'faulty:sample' {fault}; fix it there$", load_object, "faulty:sample", "here")


TYPED_OBJECTS = {
    "score": ["score", "evil:Net", "--protocol", "digits"],
    "export": ["export", "evil:Net", "out", "--to", "hf", "--row", "row.json"],
    "method": ["distill", "--spec", "{}", "--out", "out", "--method", "evil:Net"],
    "method with =": ["distill", "--spec", "{}", "--out", "out", "--method=evil:Net"],
    "extractor": ["reference", "--images", "images", "--extractor", "evil:Net", "--out", "x.safetensors"],
}
#: Words in which a name is a part of a value, or the value of an argument that takes no object.
UNTYPED = {
    "part of a file": ["score", "net,evil:Net,1.safetensors", "--protocol", "digits"],
    "file with blanks": ["score", "my evil:Net.npz", "--protocol", "digits"],
    "existing file": ["score", "there:Net", "--protocol", "digits"],
    "existing folder": ["export", "study:Net", "out", "--to", "eee", "--origin", "me"],
    "broken link": ["score", "link:Net", "--protocol", "digits"],
    "part of a path": ["score", "images/evil:Net", "--protocol", "digits"],
    "address": ["score", "https://example.org/net.safetensors?v=evil:Net", "--protocol", "digits"],
    "fragment": ["score", "hf://owner/name/net.safetensors#evil:Net", "--protocol", "digits"],
    "label": ["score", "images", "--protocol", "digits", "--name", "evil:Net"],
    "exposure": ["score", "images", "--protocol", "digits", "--saw", "evil:Net"],
    "reference": ["score", "images", "--protocol", "digits", "--reference", "edm=evil:Net"],
    "extractor's option": ["score", "images", "--protocol", "digits", "--extractor-option", "inception.path=evil:Net"],
    "info": ["info", "evil:Net.safetensors"],
    "sample": ["sample", "--network", "net,evil:Net,1.safetensors", "--out", "out"],
    "sampler": ["sample", "--network", "net.safetensors", "--sampler", "evil:Net", "--out", "out"],
    "study": ["plan", "study,evil:Net,1"],
    "study alone": ["plan", "evil:Net"],
    "study as a path of code": ["plan", "inception.path=."],
    "target": ["plan", "demo", "evil:Net"],
    "title": ["page", "images", "--out", "page.html", "--title=evil:Net"],
    "setting": ["train-teacher", "--spec", "{}", "--out", "out", "--set", "network.class=evil:Net"],
    "JSON": ["distill", "--out", "out", "--spec", '{"method": "evil:Net"}'],
    "data set": ["reference", "--extractor", "pixels", "--dataset", '{"kind": "evil:Net"}', "--out", "x.safetensors"],
    "teacher": ["distill", "--spec", "{}", "--out", "out", "--teacher", "evil:Net"],
    "passed to Snakemake": ["run", "demo", "--", "--config", "x=evil:Net"],
}
assert len(UNTYPED) >= 19


def _parse(words, monkeypatch):
    """Parses the words of a command line and runs no verb."""
    verbs = {}

    def without_work(address):
        verbs[address] = our_object(address)._replace(run=lambda args: None)
        return verbs[address]

    monkeypatch.setattr("sida.cli.main.our_object", without_work)
    status = main(words)
    assert verbs
    return status


@pytest.fixture
def typed_in(study, tmp_path, monkeypatch):
    """A working folder with what the words name."""
    study()
    for name in ("row.json", "net.safetensors", "evil:Net.safetensors", "net,evil:Net,1.safetensors", "there:Net"):
        (tmp_path / name).write_text("{}")
    for name in ("images", "study:Net"):
        (tmp_path / name).mkdir()
    (tmp_path / "link:Net").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize("words", TYPED_OBJECTS.values(), ids=TYPED_OBJECTS)
def test_the_whole_value_of_an_argument_that_takes_an_object_is_permission_but_not_in_a_job(
    typed_in, monkeypatch, words
):
    assert _parse(words, monkeypatch) == 0
    assert os.environ[ALLOW] == "evil:Net"
    monkeypatch.setenv(ALLOW, "")
    monkeypatch.setenv(TYPED, "no")
    assert _parse(words, monkeypatch) == 0
    assert os.environ[ALLOW] == ""


@pytest.mark.parametrize("words", UNTYPED.values(), ids=UNTYPED)
def test_no_other_text_of_a_command_line_is_permission(typed_in, monkeypatch, words):
    _parse(words, monkeypatch)
    assert os.environ[ALLOW] == ""


def test_a_typed_file_of_code_is_permission_for_itself_alone(typed_in, monkeypatch):
    assert _parse(["claims", "--claims", "evil.py", "--out", "out.md"], monkeypatch) == 0
    assert path_allowed("evil.py")
    assert not path_allowed("there:Net")
    monkeypatch.setenv(ALLOW, "")
    assert _parse(["claims", "--claims", "x,*", "--out", "out.md"], monkeypatch) == 1
    assert os.environ[ALLOW] == ""


@needs("planner")
def test_doctor_and_plan_name_the_code_and_its_file_before_a_run(study, monkeypatch, capsys):
    def said(verb, preset, status=(0,)):
        assert main([verb, str(preset)]) in status
        found = capsys.readouterr()
        return found.out or found.err

    preset = study(ROW, datasets={"x": {"kind": "evil.nowhere:open"}})
    for text in (said("doctor", preset, (1,)), said("plan", preset, (1,))):
        assert "'evil.nowhere:open' (no such file), 'evil:sample' (evil.py)" in text
        assert f"{ALLOW}=evil.nowhere,evil" in text

    preset = study(ROW)
    monkeypatch.setenv(ALLOW, "evil")
    assert "note    code: runs.tsv: run 'mine'.checkpoint imports evil:sample" in said("doctor", preset, (0, 1))
    assert "code from outside the package: evil:sample from evil.py" in said("plan", preset)
    # A profile of the folder has no part in a plan.
    put(Path("profiles/default/config.yaml"), "jobs: 1")
    assert "ok      code: none from outside the package" in said("doctor", study(), (0, 1))


def test_a_profile_of_the_folder_runs_nothing_without_permission(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = {"executor": "cluster-generic", "cluster-generic-submit-cmd": "touch was-here", "jobs": 1, "nolock": True}
    for place in ("profiles/default", "default"):
        put(tmp_path / place / "config.yaml", yaml.safe_dump(profile))
        monkeypatch.setenv(ALLOW, "")
        check_profile(["snakemake", "--workflow-profile", "none"])
        with refusing(f"^{place}: ", f"--workflow-profile {place}"):
            check_profile(["snakemake"])
        monkeypatch.setenv(ALLOW, f"./{place}")
        check_profile(["snakemake"])
    words = ["-s", str(ROOT / "Snakefile"), "--configfile", str(ROOT / "studies/papers/published.yaml")]
    words += ["--", "results/published/tables/table1.tex"]
    status, said = forked_snakemake(tmp_path, *words, environment={ALLOW: ""})
    assert status != 0
    assert f"error: {place}: " in said
    assert "Traceback" not in said
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("option", ["--trust-io-cache", "--trust"])
def test_no_pickle_of_snakemakes_records_is_loaded(tmp_path, option):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-here"),)

    (tmp_path / ".snakemake/iocache").mkdir(parents=True)
    (tmp_path / ".snakemake/iocache/latest.pkl").write_bytes(pickle.dumps(Evil()))
    words = ["-s", str(ROOT / "Snakefile"), "--configfile", str(ROOT / "studies/papers/published.yaml"), option, "-n"]
    status, said = forked_snakemake(tmp_path, *words, environment={ALLOW: ""})
    assert status != 0
    assert "error: --trust-io-cache: " in said
    assert not (tmp_path / "was-here").exists()


def test_a_registry_or_site_of_the_folder_is_used_with_permission_alone(study, tmp_path, monkeypatch):
    monkeypatch.delenv("SIDA_ASSETS", raising=False)
    monkeypatch.delenv("SIDA_SITE", raising=False)
    copy = put(tmp_path / "config/assets.tsv", (ROOT / "config/assets.tsv").read_text())
    assert "inception" in load_registry()
    copy.write_text(copy.read_text().replace("https://nvlabs-fi-cdn.nvidia.com", "https://example.org"))
    assert "example.org" not in load_registry()["inception"].url
    monkeypatch.setenv("SIDA_ASSETS", "config/assets.tsv")
    assert "example.org" in load_registry()["inception"].url
    put(tmp_path / "profiles/site.yaml", "extra: --wrap=x\n")
    refused(r"profiles/site.yaml: is a site file.* SIDA_SITE=profiles/site.yaml$", load_site)
    monkeypatch.setenv("SIDA_SITE", "profiles/site.yaml")
    assert load_site().extra == "--wrap=x"


@pytest.mark.slow
def test_jobs_import_nothing_by_chance_from_the_folder_they_are_started_in_and_need_no_home(tmp_path):
    for name in ("csv", "jinja2", "eval/__init__"):
        put(tmp_path / f"{name}.py", EVIL)
    command = [Path(sys.executable).parent / "snakemake", "-s", ROOT / "Snakefile", "--cores", "1", "--configfile"]
    command += [ROOT / find_preset("published"), "--", "results/published/tables/table1.tex"]
    # A home that cannot be written, also by root.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), ALLOW: "", "HOME": "/proc"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "results/published/tables/table1.tex").is_file()
    assert not (tmp_path / "was-here").exists()
