"""Costs of jobs: counted operations and memory, compared with Table 8 and with real steps; nothing is run."""

import dataclasses

import pytest
import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sida.assets.registry import load_registry
from sida.config.lookup import ROOT
from sida.config.settings import from_mapping
from sida.eval.results.published import load_published
from sida.methods.method import Parts
from sida.methods.registry import DistillConfig, find_method, resolve_recipe
from sida.networks import build_network, family_of
from sida.workflow.planning import steps
from sida.workflow.planning.assumptions import Gpu, load_assumptions
from sida.workflow.planning.costs import Costs, _published_networks, span
from sida.workflow.planning.steps import student_cost
from tests.plugins import needs
from tests.refused import refused
from tests.workflow.workspace import ROWS, put, shipped, study

PAPER = shipped("paper")
#: Columns of Table 8: key, rows, card. Its hours are the only published ones.
TABLE8 = (
    ("cifar-10", "cifar10-uncond-sid-a1.2", "cifar10-uncond-sida-a1", "V100"),
    ("imagenet", "imagenet64-sid-a1.2", "imagenet64-sida-a1", "H100"),
    ("ffhq", "ffhq64-sid-a1.2", "ffhq64-sida-a1", "H100"),
    ("afhq-v2", "afhq64-sid-a1", "afhq64-sida-a1", "H100"),
)


def test_counted_work_has_the_proportions_of_the_hours_in_table_8_and_memory_is_enough():
    """The rates of plan.yaml come from these hours: what the test holds is one rate of a card for all of its rows."""
    published, rates = load_published(), {}
    for column, sid, sida, card in TABLE8:
        costs = Costs(PAPER, card, 8)
        for method, run in (("sid", sid), ("sida", sida)):
            cost = student_cost(*costs.resolved(run))
            hours = published[f"table8-{method}-hours-per-10m-10-4-k-images-{column}-hours-per-10m"].value
            rates.setdefault((card, cost.fp16), []).append(1e7 * cost.operations / 8 / 3600 / hours)
            reserved = published[f"table8-{method}-max-memory-in-gb-reserved-per-gpu-{column}-mem-reserved-gb"].value
            # Enough, and not far too much.
            assert 0.99 < cost.memory / 2**30 / reserved < 1.25, run
    assert sorted(map(len, rates.values())) == [2, 6]
    assert all(max(measured) < 1.16 * min(measured) for measured in rates.values())


MIXER = "docs.examples.mixer:MixerPrecond"
NETWORKS = {
    "edm": {
        "class": "EDMPrecond",
        "kwargs": {
            "model_type": "SongUNet", "img_resolution": 16, "img_channels": 3, "label_dim": 4, "augment_dim": 9,
            "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8],
        },
    },
    "edm2": {
        "class": "EDM2Precond",
        "kwargs": {
            "img_resolution": 16, "img_channels": 4, "label_dim": 4, "model_channels": 32, "channel_mult": [1, 2],
            "num_blocks": 1, "attn_resolutions": [8], "channels_per_head": 32,
        },
    },
    "flow": {
        "class": "SiTPrecond",
        "kwargs": {
            "img_resolution": 16, "img_channels": 4, "label_dim": 4, "hidden_size": 48, "depth": 4, "num_heads": 4,
        },
    },
    "custom": {
        "class": MIXER,
        "kwargs": {"img_resolution": 16, "img_channels": 3, "label_dim": 4, "use_fp16": False},
    },
}  # fmt: skip


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("family", "method", "checkpointing", "options"),
    [
        ("edm", "sid", False, {}),
        ("edm", "sida", True, {}),
        pytest.param("edm2", "sida", False, {}, marks=SLOW),
        pytest.param(
            "edm", "dmd2", False, {"features": "teacher", "fake_score_steps": 2, "r1_weight": 1.0}, marks=SLOW
        ),
        pytest.param("edm", "realsid", False, {"uid_alpha": 0.9, "fake_score_steps": 3}, marks=SLOW),
        pytest.param("edm", "instance", False, {"num_steps": 3}, marks=SLOW),
        pytest.param("flow", "sida", True, {}, marks=SLOW),
        ("flow", "sid", False, {}),
        ("custom", "sida", False, {}),
        pytest.param("edm", "dmd", False, {"of recipe": {"num_steps": 5}}, marks=SLOW),
        pytest.param("edm", "sid", True, {"of recipe": {"num_steps": 3, "gradient": "all"}}, marks=SLOW),
        pytest.param(
            "edm",
            "gdd",
            False,
            {"backbones": ["lite0_package"], "r1_gamma": 0},
            marks=[needs("judges"), SLOW],
        ),
    ],
)
def test_a_real_step_takes_the_counted_operations(family, method, checkpointing, options, monkeypatch):
    monkeypatch.setenv("SIDA_ALLOW_CODE", MIXER)
    options, recipe = dict(options), options.get("of recipe", {})
    options.pop("of recipe", None)
    spec = {"name": "x", "method": method, "teacher": "t", "dataset": {"name": "d", "kind": "digits"}, "lr": 1e-4}
    spec |= {"total_kimg": 1000, "batch_size": 2, "dropout": 0, "checkpointing": checkpointing, "options": options}
    spec |= recipe
    config = resolve_recipe(from_mapping(DistillConfig, spec, "spec"), NETWORKS[family])
    made, teacher = find_method(method), build_network(NETWORKS[family])
    options = made.read_options(config.options, "options")
    parts = Parts(made, config, options, family_of(teacher), teacher, teacher, torch.device("cpu"), "spec")
    trainer = (made.trainer or Parts.distiller)(parts)
    # The mean of the drawn numbers.
    trainer.taken_steps = lambda nimg: (config.num_steps + 1) // 2
    batch = [(torch.zeros(2, NETWORKS[family]["kwargs"]["img_channels"], 16, 16), torch.eye(4)[:2])]
    # The processor's own attention is not counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.batches = lambda stream, nimg, with_images: batch
        # Not the first iteration of a tick, which measures the terms' gradients too.
        trainer.iteration(500_480)
    # What checkpointing does not evaluate again (layers outside of blocks) weighs more in so small a network.
    cost, tolerance = student_cost(config, NETWORKS[family]), 0.1 if checkpointing else 0.05
    assert counter.get_total_flops() / 2 == pytest.approx(cost.operations + cost.features, rel=tolerance)


def test_a_recipe_is_resolved_once_for_all_its_rows(tmp_path, monkeypatch):
    """Rows that differ in names, seed and α alone cost the same."""
    rows = {run: cells for run, cells in ROWS.items() if cells["method"] in ("teacher", "sida")}
    one = next(run for run, cells in rows.items() if cells["method"] == "sida")
    rows |= {f"sida-{seed}": {**rows[one], "seed": seed, "alpha": 1 + seed / 100} for seed in range(20)}
    costs = Costs(study(tmp_path, rows=rows))
    expected, resolved = Costs(costs.preset).student(one), []
    resolve = lambda config, *rest: resolved.append(config.name) or resolve_recipe(config, *rest)
    monkeypatch.setattr("sida.workflow.planning.costs.resolve_recipe", resolve)
    for row in costs.preset.students:
        assert costs.student(row.run) == dataclasses.replace(expected, name=row.run)
    assert len(resolved) == 1


def test_a_faulty_preset_of_the_folder_is_no_fault_of_the_others(tmp_path, monkeypatch):
    put(tmp_path / "studies/x/preset.yaml", "runs: runs.tsv\nrows:\n  a:\n    checkpoint: x\n")
    monkeypatch.chdir(tmp_path)
    _published_networks.cache_clear()
    assert "teacher-edm-imagenet64" in _published_networks()


def test_a_part_of_a_data_set_as_a_reference_costs_its_part(tmp_path):
    protocol = yaml.safe_load((ROOT / "tests/workflow/tiny-protocol.yaml").read_text())
    protocol["references"]["data"] |= {"dataset": "mine", "fixed": True}
    protocol |= {"metrics": [protocol["metrics"][0] | {"extractor": "inception"}], "watch": None}
    hours = []
    for size in (None, 10_000, 1_000):
        data = {"kind": "zip", "path": "a.zip", "resolution": 8, "num_images": 100_000, "max_size": size}
        changes = {"protocol": "p.yaml", "p.yaml": protocol, "datasets": {"mine": data}, "tables": [], "figures": []}
        hours.append(Costs(study(tmp_path, changes)).measurement("data").gpu_hours)
    assert hours[0] - hours[1] == pytest.approx(10 * (hours[1] - hours[2]))
    assert hours[1] > hours[2]


def test_a_card_without_a_rate_says_so():
    refused(r"gpus\.V100 has no rate in float16", Costs(PAPER, "V100").of, "students", "ffhq64-sida-a1")


def test_counts_are_kept_in_the_cache(monkeypatch, tmp_path, capsys):
    network = {"class": "EDMPrecond", "kwargs": {"img_resolution": 8, "img_channels": 1, "model_channels": 16}}
    network["kwargs"] |= {"model_type": "SongUNet", "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    monkeypatch.setattr(steps, "PATIENCE", -1.0)
    costs = []
    for lines in (1, 0, 1):
        steps._counted.cache_clear()
        costs.append(steps.network_cost(network))
        assert capsys.readouterr().err.count("[plan] counting operations and memory of EDMPrecond, 8×8") == lines
        if not lines:
            next(tmp_path.glob("counts/*.json")).write_text("[3")
    assert costs[0] == costs[1] == costs[2]


def test_assumptions_have_a_size_for_every_download_without_one():
    assumptions = load_assumptions()
    for asset in load_registry().values():
        assert assumptions.gigabytes(asset) > 0, asset.id
    assert Gpu(memory_gb=1, watts=1, float32=2).rate(False, "x") == 2e12


#: From NVIDIA's data sheets: dense peak in TFLOP/s in float16 and float32, memory bandwidth in TB/s.
PEAKS = {
    "V100": (125, 15.7, 0.9), "A100-40": (312, 19.5, 1.555), "A100-80": (312, 19.5, 2.039), "L40S": (362, 91.6, 0.864),
    "RTX4090": (165.2, 82.6, 1.008), "H100": (989, 67, 3.35), "H200": (989, 67, 4.8), "B200": (2250, 80, 8),
}  # fmt: skip


@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
def test_no_card_with_more_of_everything_is_planned_slower(half):
    gpus = {name: gpu for name, gpu in load_assumptions().gpus.items() if not name.startswith("CPU")}
    assert gpus.keys() == PEAKS.keys()
    rates = {name: gpu.float16 if half else gpu.float32 for name, gpu in gpus.items()}
    strength = {name: (peaks[0 if half else 1], peaks[2]) for name, peaks in PEAKS.items() if rates[name] is not None}
    for weak in strength:
        for strong in strength:
            if all(more >= less for more, less in zip(strength[strong], strength[weak], strict=True)):
                assert rates[strong] >= rates[weak], (weak, strong)


@pytest.mark.parametrize(
    ("hours", "told"), [(0.4, "24 minutes"), (1.25, "1.2 hours"), (47.0, "47.0 hours"), (60.0, "2.5 days")]
)
def test_a_span_is_told_in_a_unit_that_people_use(hours, told):
    assert span(hours) == told
