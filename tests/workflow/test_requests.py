"""What jobs ask a scheduler for: time and memory of the plan, GPUs, nodes, and attempts as they need them."""

import functools
import inspect
from types import SimpleNamespace

import pytest

from sida.config.resources import ROOT
from sida.errors import UserError
from tests.refused import refusing
from tests.workflow.workspace import forked_snakemake
from workflow.planning.costs import driver_memory
from workflow.planning.requests import Requests, Site, allow_attempts, load_site
from workflow.preset import Preset

SIDA = SimpleNamespace(run="cifar10-uncond-sida-ablation-a1.0")


@functools.cache
def paper():
    return Preset.load(ROOT / "studies/papers/paper.yaml")


def asked(kind, wildcards, attempt=1, preset=None, trials=None, **site):
    """Resources of a job as Snakemake evaluates them."""
    words = Requests(preset or paper(), Site(**{"gpu": "H100", **site})).of(kind, trials)
    values = {}
    for name, value in words.items():
        if callable(value):
            given = (wildcards, attempt)[: len(inspect.signature(value).parameters)]
            value = value(*given)
        values[name] = value
    return {name: value for name, value in values.items() if value is not None}


def to_run(rule, **wildcards):
    return SimpleNamespace(rule=SimpleNamespace(name=rule), wildcards=SimpleNamespace(**wildcards))


def test_trainings_beyond_the_memory_of_their_card_are_named_before_they_run(monkeypatch):
    jobs = [to_run("distill", run="imagenet64-gdd"), to_run("distill", run="cifar10-uncond-gdd"), to_run("fetch")]
    line = Requests(paper(), Site(gpu="H100")).too_large(jobs)
    assert line.startswith("warning: 1 of the trainings need more than the 80 GB of H100: imagenet64-gdd (92 GB); ")
    assert "batch_gpu" in line
    assert Requests(paper(), Site(gpu="H200")).too_large(jobs) == ""
    for memory, named in ((16.0, "2 of the trainings"), (80.0, "imagenet64-gdd (92 GB)"), (141.0, ""), (None, "")):
        monkeypatch.setattr("workflow.planning.requests.driver_memory", lambda memory=memory: memory)
        line = Requests(paper(), None).too_large(jobs)
        assert named in line
        assert bool(line) == bool(named)


def test_nothing_is_planned_without_a_training_on_a_gpu(monkeypatch):
    monkeypatch.setattr("workflow.planning.requests.driver_memory", lambda: 1.0)
    monkeypatch.setattr(Requests, "_planned", lambda *args: pytest.fail("planned"))
    assert Requests(paper(), None).too_large([to_run("fetch"), to_run("measure_0_9", run="edm2-xs-sid")]) == ""
    demo = Preset.load(ROOT / "studies/demo/preset.yaml")
    assert Requests(demo, None).too_large([to_run("distill", run="sid-a1.0")]) == ""


def test_the_drivers_answer_is_the_smallest_card(monkeypatch):
    class Driver:
        def cuDeviceGetCount(self, count):
            count._obj.value = 2

        def cuDeviceGet(self, card, index):
            card._obj.value = index

        def cuDeviceTotalMem_v2(self, size, card):
            size._obj.value = (80_000_000_000, 16_000_000_000)[card.value]

        def cuInit(self, flags):
            assert flags == 0

    monkeypatch.setattr("workflow.planning.costs.ctypes.CDLL", lambda name: Driver())
    assert driver_memory() == 16.0
    monkeypatch.setattr(Driver, "cuDeviceGetCount", lambda self, count: 100)
    assert driver_memory() is None
    monkeypatch.setattr("workflow.planning.costs.ctypes.CDLL", lambda name: object())
    assert driver_memory() is None


def test_time_is_the_planned_one_with_a_margin_and_grows_with_attempts():
    planned = Requests(paper(), Site(gpu="H100"))._hours("student", SIDA, None)
    first, second, third = (asked("student", SIDA, attempt, max_hours=1000)["runtime"] for attempt in (1, 2, 3))
    assert first == pytest.approx(30 + 90 * planned, abs=1)
    assert (second, third) == (pytest.approx(1.5 * first, abs=1), pytest.approx(2 * first, abs=1))
    slower = asked("student", SIDA, margin=3.0, max_hours=1000)["runtime"]
    assert slower == pytest.approx(30 + 180 * planned, abs=1)


def test_no_job_asks_for_more_than_the_site_has():
    long = SimpleNamespace(run="edm2-xxl-sid")
    assert asked("student", long, 9)["runtime"] == 24 * 60
    assert asked("student", long, 9, max_hours=2.5, max_memory_gb=64)["runtime"] == 150
    assert asked("student", long, 9, max_memory_gb=64)["mem_mb"] == 64_000


def test_what_nobody_can_plan_asks_for_the_most():
    """The V100 has no rate in float16, in which EDM2's networks are trained."""
    long = SimpleNamespace(run="edm2-xs-sid")
    assert asked("student", long, gpu="V100", max_hours=7)["runtime"] == 420


def test_a_shard_asks_for_its_part_of_a_row():
    row = SimpleNamespace(run="edm2-m-sid", begin="0", end="10000")
    whole = asked("measure", row, trials=10, max_hours=1000)["runtime"] - 30
    shard = asked("shard", row, max_hours=1000)["runtime"] - 30
    assert shard == pytest.approx(whole / 50, abs=1.1)


@pytest.mark.parametrize(("per_node", "nodes"), [(8, 1), (4, 2), (3, 4), (1, 8)])
def test_a_training_takes_as_many_nodes_as_its_gpus_need(per_node, nodes):
    words = asked("student", SIDA, gpus_per_node=per_node)
    assert words["nodes"] == nodes
    assert words["cpus_per_task"] == paper().settings.threads * 8 // nodes
    # Within the allocation the job starts one launcher on each node by itself.
    several = {"tasks": nodes, "tasks_per_gpu": 0, "mpi": "srun"}
    assert {key: words.get(key) for key in several} == (several if nodes > 1 else dict.fromkeys(several))


def test_jobs_with_a_gpu_go_to_its_partition():
    words = {"partition": "main", "gpu_partition": "cards", "account": "ours", "extra": "--signal=TERM@120"}
    measured = asked("measure", SIDA, trials=10, **words)
    assert (measured["slurm_partition"], measured["slurm_account"]) == ("cards", "ours")
    assert measured["slurm_extra"] == "--signal=TERM@120"
    assert asked("merge", SIDA, **words)["slurm_partition"] == "main"
    assert "slurm_partition" not in asked("merge", SIDA)


def test_without_a_scheduler_nothing_is_asked_for_and_a_job_does_not_plan_itself_again():
    alone = Requests(paper(), None)
    assert alone.of("student") == {"nodes": 1}
    assert alone.of("measure", 10) == alone.of("merge") == {}
    inside = Requests(paper(), Site(gpus_per_node=4), inside=True).of("student")
    assert not {"runtime", "mem_mb", "pieces"} & inside.keys()
    assert inside["nodes"](SIDA) == 2


def test_a_preset_for_processors_asks_for_the_memory_of_its_networks():
    tiny = Preset.load(ROOT / "tests/workflow/tiny.yaml")
    words = asked("student", SimpleNamespace(run="sida-a1.0"), preset=tiny)
    assert 4000 < words["mem_mb"] < 6000
    assert words["runtime"] == 31
    assert words["nodes"] == words["cpus_per_task"] == 1


def test_the_site_is_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIDA_SITE", raising=False)
    # The checkout's own says what is assumed without it.
    assert load_site() == Site()
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/site.yaml").write_text("gpu: V100\ngpus_per_node: 4\n")
    assert load_site() == Site(gpu="V100", gpus_per_node=4)
    (tmp_path / "other.yaml").write_text("max_hours: 2\n")
    monkeypatch.setenv("SIDA_SITE", "other.yaml")
    assert load_site() == Site(max_hours=2)
    (tmp_path / "other.yaml").write_text("# gpu: V100\n")
    assert load_site() == Site()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("max_hours: 24:00", r'site.yaml: max_hours: .*"24:00"'),
        ("partitoin: main", r"site.yaml: partitoin: .*'partition'"),
        ("max_hours: -1", "site.yaml: max_hours: "),
        ("gpu: H10", r"site.yaml: gpu: .*'H100'"),
        ("- a", "site.yaml"),
        (None, r"SIDA_SITE=site\.yaml: no such file"),
    ],
)
def test_a_faulty_site_is_one_line(text, fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_SITE", "site.yaml")
    if text:
        (tmp_path / "site.yaml").write_text(text)
    with refusing(fault):
        load_site()


#: Rules whose jobs all fail, by the pieces that they are planned in.
PIECES = {"training": "4", "brief": "None", "trials": '{"some": 2, "none": 4}[wildcards.name]', "other": "3"}
SNAKEFILE = """
from workflow.planning.requests import PIECES, allow_attempts

onstart:
    open("said", "w").write("\\n".join(allow_attempts(workflow, {"training": None, "brief": None, "trials": 3})))
""" + "".join(
    f"""
rule {name}:
    output: "{{name}}.{name}"
    resources: **{{PIECES: lambda wildcards: {pieces}}}
    shell: "echo {{wildcards.name}} >> attempts; exit 1"
"""
    for name, pieces in PIECES.items()
)


def test_a_long_training_gets_an_attempt_for_each_limit_and_the_retries_for_faults(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    targets = ("long.training", "short.brief", "a.other", "some.trials", "none.trials")
    # One retry for faults.
    status, _ = forked_snakemake(tmp_path, "--cores", "1", "--retries", "1", "--keep-going", "--nolock", *targets)
    assert status == 1
    attempts, said = (tmp_path / "attempts").read_text().split(), (tmp_path / "said").read_text()
    assert attempts.count("long") == 4 + 1
    assert attempts.count("short") == attempts.count("a") == 1 + 1
    # A rule has one number of retries, so a measurement that cannot end is sent as often as the one that can.
    assert attempts.count("some") == attempts.count("none") == 2 + 1
    assert "longer than max_hours of the site file, which resume in further attempts: 2; training long needs 4" in said
    assert "which no further attempt ends: 2, " in said
    assert "among them; cut measurements by shard_size" in said


def test_a_training_that_nobody_can_plan_is_named():
    rule = SimpleNamespace(name="distill", restart_times=5)
    job = SimpleNamespace(rule=rule, resources={"pieces": 0}, wildcards_dict={"run": "edm2-xs-sid"})
    dag = SimpleNamespace(needrun_jobs=lambda: [job])
    (line,) = allow_attempts(SimpleNamespace(dag=dag, execution_settings=SimpleNamespace(retries=5)), {"distill": None})
    assert line.startswith("trainings without a plan")
    assert ": 1, distill edm2-xs-sid among them" in line
    assert rule.restart_times == 5


@pytest.fixture
def planned(monkeypatch):
    """Requests whose jobs all take that many hours."""

    def make(hours, **site):
        def plan(self, kind, wildcards, trials):
            if hours is None:
                raise UserError("", "no rate")
            return hours

        monkeypatch.setattr(Requests, "_hours", plan)
        return Requests(paper(), Site(**{"gpu": "H100", "margin": 1.0, **site}))

    return make


@pytest.mark.parametrize(("hours", "pieces"), [(20, None), (40, 2), (48, 3), (235, 10), (236, 11)])
def test_a_measurement_is_cut_between_its_trials(planned, hours, pieces):
    """Ten trials, 23.5 hours in an attempt; where not even one trial fits, no attempt ends it."""
    assert planned(hours).pieces("measure", None, 10) == pieces


@pytest.mark.parametrize(
    ("hours", "site", "pieces"),
    [
        (1, {}, None),
        (23.5, {}, None),
        (23.6, {}, 2),
        (842, {"margin": 1.5}, 54),
        (842, {"max_hours": 72}, 12),
        (2, {"max_hours": 0.25}, 16),
        (None, {}, 0),
    ],
)
def test_pieces_of_a_job_are_its_hours_by_what_an_attempt_computes(planned, hours, site, pieces):
    """An attempt takes half an hour to start; 842 hours are the longest training of `paper` on eight H100."""
    requests = planned(hours, **site)
    assert requests.pieces("student", None) == pieces
    asked = requests.of("student")
    assert asked["pieces"](None) == pieces
    if pieces is None:
        assert asked["runtime"](None, 1) <= 60 * requests.site.max_hours
    else:
        assert asked["runtime"](None, 1) == 60 * requests.site.max_hours
