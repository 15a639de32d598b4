"""A training without a teacher: resumed bit by bit, averages side by side, drawn in one step, told what it lacks."""

import pytest
import torch

from sida.data import Dataset, load_dataset
from sida.errors import UserError
from sida.files.atomic import read_jsonl
from sida.methods import distill
from sida.methods.distillation import make_trainer
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.networks.file import load_network, read_metadata
from sida.plugins.meanflow.method import MeanFlowLoss
from sida.sampling import SeedStreams, one_step
from tests.near import GRADIENT, assert_near, is_copy, same_bits
from tests.plugins import needs
from tests.slow import quick_but
from tests.training.toy import STUDENT, interrupt_after, iterate, of_method, results, vector

UNET = {
    "class": "MeanFlowPrecond",
    "kwargs": {
        "img_resolution": 8, "img_channels": 1, "label_dim": 10, "augment_dim": 6, "model_channels": 4,
        "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.1,
    },
}  # fmt: skip
DIT = {
    "class": "MeanFlowDiT",
    "kwargs": {
        "img_resolution": 8, "img_channels": 1, "label_dim": 10, "hidden_size": 24, "depth": 1, "num_heads": 2,
    },
}  # fmt: skip
COMMON = {
    **of_method("meanflow", STUDENT),
    "total_kimg": 0.064,
    "warmup_kimg": 0,
    "snapshot_kimg": 0.032,
    "pictures": 0,
}
COMMON["evaluation"] = {**COMMON["evaluation"], "every_kimg": 0.032}
#: Networks and options; guidance and iMF's loss for the transformer.
RUNS = {
    "unet": (UNET, {"lr_rampup_kimg": 0.032, "further_half_lives_kimg": [0.02, 0.1]}, {}),
    "dit": (DIT, {"loss": "v", "kappa": 0.5, "times": "sorted"}, {"augment": None}),
    "difference": (UNET, {"derivative": "difference", "share": [1.0, 0.01]}, {}),
    "recomputed": (DIT, {"omega": 2.0}, {"augment": None, "checkpointing": True}),
}


def spec_of(name, **more):
    network, options, changes = RUNS[name]
    return {**COMMON, "network": network, "options": options, **changes, **more}


@pytest.mark.parametrize("name", quick_but({"unet", "recomputed"}, RUNS))
def test_a_run_resumes_bit_by_bit(name, tmp_path, monkeypatch):
    folder, resumed = tmp_path / "straight", tmp_path / "resumed"
    network = distill(spec_of(name), folder)
    interrupt_after(distill, spec_of(name), resumed, 48)
    monkeypatch.setattr(Dataset, "sketch", None)
    distill(spec_of(name), resumed)
    assert results(resumed) == results(folder)
    logs = read_jsonl(folder / "train.jsonl")
    assert {term for record in logs for term in record["losses"]} == {"mean_flow", "squared_error"}
    assert not any("share" in record for record in logs), "one term has a gradient"
    assert all(record["nan_count"] == record["bad_gradients"] == 0 for record in logs)
    net, metadata = load_network(network)
    assert metadata["network"]["class"] == RUNS[name][0]["class"]
    assert metadata["parents"] == {"teacher": None, "init": None}
    assert metadata["sampler"] == {"kind": "one_step", "init_sigma": "infinite"}
    z, labels = SeedStreams(range(4)).randn((1, 8, 8)), torch.eye(10)[:4]
    one = torch.ones(1)
    assert_near(one_step(net, z, labels, "infinite"), z - net.mean_velocity(z, one, one, labels))


def test_checkpointing_gives_the_same_numbers(tmp_path):
    files = [
        distill(spec_of("recomputed", checkpointing=recomputed), tmp_path / str(recomputed))
        for recomputed in (False, True)
    ]
    assert same_bits(*(vector(load_network(path)[0]) for path in files))


def test_averages_lie_side_by_side(tmp_path):
    """Each is an average of the same weights, with its own half-life."""
    distill(spec_of("unet", evaluation=None, ema_rampup_ratio=None), tmp_path)
    beside = sorted(path.name for path in (tmp_path / "snapshots").glob("*.safetensors"))
    assert beside == [f"network-{nimg:010}{end}.safetensors" for nimg in (32, 64) for end in ("-0.02", "-0.1", "")]
    last = {end: tmp_path / f"snapshots/network-0000000064{end}.safetensors" for end in ("", "-0.02", "-0.1")}
    assert read_metadata(last["-0.1"])["average_kimg"] == 0.1
    weights = {end: vector(load_network(path)[0]) for end, path in last.items()}
    assert is_copy(weights[""], vector(load_network(tmp_path / "network.safetensors")[0]))
    assert len({tuple(values.tolist()) for values in weights.values()}) == 3


def trainer_of(spec):
    config = DistillConfig(**spec)
    recipe = resolve_recipe(config, config.network)
    return make_trainer(recipe, load_dataset(config.dataset), torch.device("cpu"))


def test_a_seed_gives_the_start_and_the_family_the_settings():
    specs = [spec_of("unet"), spec_of("unet"), spec_of("unet", seed=1), spec_of("dit", ema_half_life_kimg=None)]
    trainers = [trainer_of({**spec, "evaluation": None}) for spec in specs]
    first, again, other, dit = (vector(trainer.generator.net) for trainer in trainers)
    assert same_bits(first, again)
    assert not same_bits(first, other)
    assert len(dit) != len(first)
    assert [trainer.config.betas for trainer in trainers[2:]] == [(0.9, 0.999), (0.9, 0.95)]
    assert trainers[3].config.ema_half_life_kimg == 1774.4
    # 0.9999 for each step of 256 images.
    assert 0.5 ** (256 / (trainers[3].config.ema_half_life_kimg * 1000)) == pytest.approx(0.9999, abs=1e-8)
    assert trainers[0].schedule.at(0).lr_factor == 0 < trainers[0].schedule.at(16).lr_factor < 1
    assert trainers[0].steps[0].augment.label_dim == 6


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"network": {**UNET, "class": "EDMPrecond"}}, "mean-flow"),
        ({"network": {**UNET, "kwargs": {**UNET["kwargs"], "augment_dim": 9}}}, "network.kwargs.augment_dim"),
        ({"network": {**UNET, "kwargs": {**UNET["kwargs"], "img_resolution": 16}}}, "img_resolution"),
        ({"network": {**DIT, "kwargs": {**DIT["kwargs"], "num_heads": 5}}, "augment": None}, "num_heads|hidden_size"),
        ({"network": DIT}, "augment"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_the_run(change, told, tmp_path):
    with pytest.raises(UserError, match=told):
        distill(spec_of("unet", **change), tmp_path / "out")
    assert not (tmp_path / "out" / "train.jsonl").exists()


def iterated(kernels, dropout=0.0, **options):
    """Kernels, loss and gradient of an iteration by difference on the CPU, with the same draws each time."""
    network = {**UNET, "kwargs": {**UNET["kwargs"], "dropout": dropout, "augment_dim": 0}}
    options = {"derivative": "difference", "norm_p": 0.0, **options}
    spec = {**COMMON, "network": network, "options": options, "augment": None, "device": "cuda", "evaluation": None}
    config = DistillConfig(**spec, kernels=kernels)
    dataset, cpu = load_dataset(config.dataset), torch.device("cpu")
    trainer = make_trainer(resolve_recipe(config, network), dataset, cpu)
    trainer.begin(0)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainer.generator.net.parameters():  # a new network gives 0 everywhere
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    torch.manual_seed(1)
    images = torch.rand(4, 1, 8, 8, generator=rng)
    loss = iterate(trainer, 4, [(images, torch.eye(10)[:4])]).losses["mean_flow"]
    # Adam's first mean is (1 − β₁) times the gradient.
    return trainer.generator.kernels, loss, trainer.generator.state()["adam/mean"]


def test_the_share_of_the_difference_falls_over_the_training(monkeypatch):
    shares = []
    monkeypatch.setattr(MeanFlowLoss, "begin", lambda loss, progress: shares.append(progress))
    network = {**UNET, "kwargs": {**UNET["kwargs"], "augment_dim": 0}}
    config = DistillConfig(**{**COMMON, "network": network, "augment": None, "evaluation": None})
    trainer = make_trainer(resolve_recipe(config, network), load_dataset(config.dataset), torch.device("cpu"))
    total = round(config.total_kimg * 1000)
    for nimg in (0, total // 2, total):
        trainer.begin(nimg)
    assert shares == pytest.approx([0.0, 0.5, 1.0])


@needs("kernels")
@pytest.mark.slow
def test_fused_kernels_give_the_gradient_of_a_difference():
    (without, plain, expected), (kernels, fused, gradient) = (iterated(name, apart=1.0) for name in ("torch", "fused"))
    assert without is None
    assert kernels is not None
    assert_near(fused, plain)
    assert_near(gradient, expected, GRADIENT)


@needs("kernels")
@pytest.mark.slow
def test_fused_kernels_give_both_evaluations_one_dropout_mask():
    """At equal times both are then the same, and the share of a difference of 0 has no effect."""
    losses = [iterated("fused", 0.5, apart=0.0, share=[share, share])[1] for share in (0.5, 0.001)]
    assert_near(losses[0], losses[1])
