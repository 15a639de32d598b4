"""MeanFlow's objective: recorded losses of py-meanflow, exact mean velocities, guidance in the target."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from plugins.meanflow.tests.test_networks import UNET, official_network
from sida.errors import SettingError, UserError
from sida.methods.registry import DistillConfig
from sida.plugins.meanflow.method import MeanFlowLoss, MeanFlowOptions
from sida.training.batches import MicroBatch
from tests.golden.vectors import below, load_tensors
from tests.near import GRADIENT, assert_near, is_copy, relative_error
from tests.networks.made import random_network
from tests.plugins import needs

#: Options of the recorded cases.
CASES = {
    "v0": {"times": "sorted", "t_normal": (-2.0, 2.0), "r_normal": (-2.0, 2.0)},
    "v1": {"times": "capped", "t_normal": (-0.6, 1.6), "r_normal": (-4.0, 1.6)},
}
TYPES = {"": torch.float64, "f32/": torch.float32}


class Recorded(torch.nn.Module):
    """The network of the recorded cases: conv(tanh(conv(z) + a t + c h))."""

    def __init__(self, arrays, dtype):
        super().__init__()
        for name, value in below(arrays, "net/").items():
            setattr(self, name, torch.nn.Parameter(value.to(dtype)))

    def mean_velocity(self, z, t, h, class_labels=None, *, augment_labels=None):
        t, h = t.reshape(-1, 1, 1, 1), h.reshape(-1, 1, 1, 1)
        hidden = F.conv2d(z, self.w1, self.b1, padding=1) + self.a[:, None, None] * t + self.c[:, None, None] * h
        return F.conv2d(hidden.tanh(), self.w2, self.b2, padding=1)


class Exact(torch.nn.Module):
    """A mean velocity that a function gives."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def mean_velocity(self, z, t, h, class_labels=None, *, augment_labels=None):
        return self.function(z, t, h, class_labels)


def drawn(n=6, shape=(1, 4, 4), dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    draws = {name: torch.randn(n, 1, 1, 1, generator=rng, dtype=dtype) for name in ("t_normal", "r_normal")}
    draws |= {name: torch.rand(n, 1, 1, 1, generator=rng, dtype=dtype) for name in ("mask_t", "drop_t")}
    return draws | {"noise": torch.randn(n, *shape, generator=rng, dtype=dtype)}


def computed(net, images, draws, labels=None, **options):
    return MeanFlowLoss(MeanFlowOptions(**options))(net, MicroBatch(images, labels, draws=draws))


@pytest.mark.parametrize("prefix", TYPES)
@pytest.mark.parametrize("case", CASES)
def test_recorded_losses_gradients_and_times(case, prefix):
    arrays, info = load_tensors("rivals/meanflow")
    dtype = TYPES[prefix]
    settings = info["cases"][case]
    options = {
        **CASES[case],
        "apart": settings["ratio"],
        "norm_p": settings["norm_p"],
        "norm_eps": settings["norm_eps"],
    }
    names = {"t_normal": "normal_t", "r_normal": "normal_r", "mask_t": "uniform", "noise": "noise", "drop_t": "uniform"}
    draws = {name: arrays[f"in/{old}"].to(dtype) for name, old in names.items()}
    draws = {name: value if name == "noise" else value.reshape(-1, 1, 1, 1) for name, value in draws.items()}
    t, r = MeanFlowLoss(MeanFlowOptions(**options)).pair(draws)
    assert_near(t.flatten(), arrays[f"{prefix}{case}/t"])
    assert_near(r.flatten(), arrays[f"{prefix}{case}/r"])
    net = Recorded(arrays, dtype)
    value = computed(net, arrays["in/real"].to(dtype), draws, **options)["mean_flow"].sum() / len(draws["noise"])
    value.backward()
    assert_near(value, arrays[f"{prefix}{case}/loss"])
    for name, parameter in net.named_parameters():
        assert_near(parameter.grad, arrays[f"{prefix}{case}/grad/{name}"], name=name)


def test_recorded_loss_of_the_official_network():
    """With augmentation labels; dropout is off."""
    net, arrays = official_network()
    names = ("t_normal", "r_normal", "mask_t")
    draws = {name: arrays[f"loss/{name}"].reshape(-1, 1, 1, 1) for name in names}
    draws |= {"noise": arrays["loss/noise"], "drop_t": draws["mask_t"]}
    draws |= {"augmented images": arrays["loss/real"], "labels of images": arrays["in/augment_labels"]}
    value = computed(net, arrays["loss/real"], draws)["mean_flow"].mean()
    value.backward()
    assert_near(value, arrays["loss/value"])
    norms = torch.stack([parameter.grad.norm() for parameter in net.parameters()])
    assert_near(norms, arrays["loss/grad_norm"], GRADIENT)
    gradients = {name.removeprefix("model."): parameter.grad for name, parameter in net.named_parameters()}
    for name, expected in below(arrays, "loss/grad/").items():
        assert_near(gradients[name], expected, GRADIENT, name=name)


GOLDEN = Path(__file__).parent / "golden/soflow"


def of_soflow(case, progress=None, **options):
    """Gradients of a recorded case by our loss, as SoFlow scales them, with the recorded ones."""
    arrays = {name: torch.from_numpy(value) for name, value in np.load(f"{GOLDEN}.npz").items()}
    settings, inputs = (
        json.loads(GOLDEN.with_suffix(".json").read_text())["cases"][case],
        load_tensors("rivals/meanflow")[0],
    )
    images, noise = inputs["in/real"].double(), inputs["in/noise"].double()
    draws = {"t_normal": arrays["in/t"].logit(), "r_normal": arrays["in/s"].logit(), "noise": noise}
    draws = {name: value if name == "noise" else value.reshape(-1, 1, 1, 1) for name, value in draws.items()}
    draws |= {name: torch.ones_like(draws["t_normal"]) for name in ("mask_t", "drop_t")}
    values = images[0].numel()
    chosen = {"t_normal": (0.0, 1.0), "r_normal": (0.0, 1.0), "apart": 1.0, "norm_p": settings["p"]}
    chosen |= {"norm_eps": settings["eps"] * values, "derivative": "difference", "share": tuple(settings["ratio"])}
    loss, net = MeanFlowLoss(MeanFlowOptions(**{**chosen, **options})), Recorded(inputs, torch.float64)
    loss.begin(settings["progress"] if progress is None else progress)
    terms = loss(net, MicroBatch(images, None, draws=draws))
    (terms["mean_flow"].mean() * values ** (settings["p"] - 1) / 2).backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    return gradients, below(arrays, f"{case}/grad/"), terms, arrays[f"{case}/mse"]


@pytest.mark.parametrize("case", ["start", "middle", "end", "plain", "imagenet"])
def test_gradients_of_the_difference_are_soflows(case):
    gradients, expected, terms, mse = of_soflow(case)
    # A small share makes rounding larger.
    assert_near(terms["squared_error"].mean(), mse, 1e-9)
    for name, value in expected.items():
        assert_near(gradients[name], value, 1e-9, name=name)


def test_a_small_difference_is_the_forward_derivative():
    """With SoFlow's weight of a mean both forms have one limit; the error falls with the share."""
    forward = of_soflow("plain", derivative="forward", share=MeanFlowOptions.share)[0]
    errors = []
    for share in (1e-1, 1e-3, 1e-5):
        found = of_soflow("plain", progress=0, share=(share, share))[0]
        errors.append(max(relative_error(found[name], forward[name]) for name in forward))
    assert errors[0] > 20 * errors[1] > 400 * errors[2]
    assert errors[2] < 1e-4


@pytest.mark.parametrize("loss", ["u", "v"])
def test_paths_to_one_image_have_no_error(loss):
    clean = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    net = Exact(lambda z, t, h, _: (z - clean) / t.reshape(-1, 1, 1, 1))
    terms = computed(net, clean.repeat(6, 1, 1, 1), drawn(), loss=loss)
    assert float(terms["squared_error"].max()) < 1e-20


def gaussian(z, t, h, _):
    """Mean velocity of the flow to images of the standard deviation 0.5, by the exact map between two times."""
    t, h = t.reshape(-1, 1, 1, 1), h.reshape(-1, 1, 1, 1)
    spread = lambda time: ((1 - time).square() * 0.25 + time.square()).sqrt()
    safe = torch.where(h > 0, h, 1.0)
    slope = (t - (1 - t) * 0.25) / spread(t).square()
    return z * torch.where(h > 0, (1 - spread(t - safe) / spread(t)) / safe, slope)


def test_along_its_own_velocity_an_exact_mean_velocity_predicts_the_velocity():
    """iMF: u + h du is the velocity of the flow, whatever h; along the path's velocity it depends on the noise."""
    draws = drawn()
    images = torch.randn(6, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 2
    t, r = MeanFlowLoss().pair(draws)
    assert (t > r).any()
    z = (1 - t) * images + t * draws["noise"]
    error = gaussian(z, t, torch.zeros_like(t), None) - (draws["noise"] - images)
    expected = error.square().mean(dim=(1, 2, 3), keepdim=True)
    assert_near(computed(Exact(gaussian), images, draws, loss="v")["squared_error"], expected)
    assert relative_error(computed(Exact(gaussian), images, draws)["squared_error"], expected) > 1e-3


def test_equal_times_are_flow_matching():
    draws, images = drawn(), torch.zeros(6, 1, 4, 4, dtype=torch.float64)
    terms = computed(Exact(lambda z, t, h, _: z), images, draws, apart=0, norm_p=0)
    t, r = MeanFlowLoss(MeanFlowOptions(apart=0)).pair(draws)
    assert_near(t, r)
    expected = (t * draws["noise"] - draws["noise"]).square().sum(dim=(1, 2, 3), keepdim=True)
    assert_near(terms["mean_flow"], expected)


@pytest.mark.parametrize("norm_p", [0.5, 1.0])
def test_the_weight_is_no_part_of_the_gradient_and_bounds_the_loss(norm_p):
    draws, images = drawn(), torch.zeros(6, 1, 4, 4, dtype=torch.float64)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    net = Exact(lambda z, t, h, _: scale * z)
    weighted = computed(net, images, draws, norm_p=norm_p)["mean_flow"]
    assert norm_p < 1 or float(weighted.detach().max()) < 1
    (slope,) = torch.autograd.grad(weighted.sum(), scale)
    plain = computed(net, images, draws, norm_p=0)["mean_flow"]
    slopes = [torch.autograd.grad(value, scale, retain_graph=True)[0] for value in plain.flatten()]
    expected = sum(own / (value.detach() + 1e-3) ** norm_p for own, value in zip(slopes, plain.flatten()))
    assert_near(slope, expected)


@pytest.mark.parametrize("loss", ["u", "v"])
@pytest.mark.parametrize(("omega", "kappa"), [(0.5, 0.25), (0.5, 0.0), (1.0, 0.25)])
def test_images_with_a_class_in_the_interval_learn_the_guided_velocity(loss, omega, kappa):
    """u = c (1 + t/2 + h/4) z, where c is 2, 3 or 5 for a class and 1 for none.

    du is taken along the guided velocity, or with the loss ``v`` along the network's own.
    """
    draws, labels = drawn(n=40), torch.eye(3, dtype=torch.float64)[torch.arange(40) % 3]
    images = torch.randn(40, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    column = lambda values: values.reshape(-1, 1, 1, 1)
    size = lambda classes: 1.0 if classes is None else column(1 + classes @ torch.tensor([1.0, 2, 4]).double())
    growth = lambda t, h: 1 + column(t) / 2 + column(h) / 4
    options = {"omega": omega, "kappa": kappa, "guided_times": (0.2, 0.7), "label_dropout": 0.3, "loss": loss}
    net = Exact(lambda z, t, h, classes: size(classes) * growth(t, h) * z)
    error = computed(net, images, draws, labels, **options)["squared_error"]
    t, r = MeanFlowLoss(MeanFlowOptions(**options)).pair(draws)
    h, z, velocity = t - r, (1 - t) * images + t * draws["noise"], draws["noise"] - images
    is_dropped, in_interval = draws["drop_t"] < 0.3, (t >= 0.2) & (t <= 0.7)
    for group in (is_dropped, ~is_dropped & in_interval & (h > 0), ~is_dropped & ~in_interval & (h > 0)):
        assert group.any()
    own, unlabelled = size(labels) * (1 + t / 2) * z, (1 + t / 2) * z
    guided = omega * velocity + (1 - omega - kappa) * unlabelled + kappa * own
    target = torch.where(in_interval & ~is_dropped, guided, velocity)
    along, seen = target if loss == "u" else own, torch.where(is_dropped, 1.0, size(labels))
    slope = seen * (growth(t, h) * along + (1 / 2 + 1 / 4) * z)
    expected = (seen * growth(t, h) * z - (target - h * slope)).square().mean(dim=(1, 2, 3), keepdim=True)
    assert_near(error, expected)


def test_both_evaluations_have_one_dropout_mask_and_the_target_has_none():
    """With equal masks and h = 0 for all images, u is unchanged by the evaluation for du."""
    net = random_network("MeanFlowPrecond", {**UNET, "dropout": 0.5}).train()
    draws = drawn(shape=(2, 8, 8), dtype=torch.float32)
    images, labels = torch.zeros(6, 2, 8, 8), torch.eye(3)[torch.arange(6) % 3]
    seen = []
    original = net.mean_velocity

    def noticing(z, *args, **kwargs):
        seen.append((net.training, torch.random.get_rng_state()))
        return original(z, *args, **kwargs)

    net.mean_velocity = noticing
    computed(net, images, draws, labels, loss="v", kappa=0.5)
    assert [training for training, _ in seen] == [False, False, True, True]
    assert is_copy(seen[2][1], seen[3][1])
    assert net.training


def test_a_sample_with_nan_is_left_out():
    draws = drawn()
    draws["noise"][3, 0, 0, 0] = float("nan")
    given = MicroBatch(torch.zeros(6, 1, 4, 4, dtype=torch.float64), None, draws=draws)
    terms = MeanFlowLoss()(Exact(lambda z, t, h, _: z * h), given)
    assert given.dropped == 1
    assert all(len(values) == 5 and torch.isfinite(values).all() for values in terms.values())


SPEC = {
    "name": "toy", "dataset": {"name": "digits", "kind": "digits"}, "total_kimg": 1, "batch_size": 16, "lr": 1e-3,
    "method": "meanflow", "network": {"class": "MeanFlowPrecond", "kwargs": {"img_resolution": 8, "img_channels": 1}},
}  # fmt: skip
HALF = {"device": "cuda", "fp16": True, "options": {"derivative": "difference"}}
IN_HALF = {**SPEC["network"], "kwargs": {**SPEC["network"]["kwargs"], "use_fp16": True}}


@pytest.mark.parametrize(
    ("change", "place", "remedy"),
    [
        ({"teacher": "net.safetensors"}, "teacher", "remove it"),
        ({"network": None}, "network", "class and kwargs"),
        ({"init": "net.safetensors"}, "init", "remove it"),
        ({"init_sigma": 2.5}, "init_sigma", "infinite"),
        ({"device": "cuda", "fp16": True}, "fp16", "difference"),
        ({"options": {"share": [0.1, 0.01]}}, "options.share", "difference"),
        ({"options": {"derivative": "difference", "share": [0.0, 0.01]}}, "options.share", "above 0"),
        pytest.param({"device": "cuda", "kernels": "fused"}, "kernels", "difference", marks=needs("kernels")),
        (HALF, "options.share", "0.00976"),
        ({**HALF, "options": {"derivative": "difference", "share": [0.5, 0.009]}}, "options.share", "fp16 to false"),
        (
            {**HALF, "half": "bfloat16", "options": {"derivative": "difference", "share": [0.07, 1]}},
            "options.share",
            "0.078125",
        ),
        ({"device": "cuda", "network": IN_HALF}, "fp16", "difference"),
        ({"num_steps": 2}, "num_steps", "remove it"),
        ({"options": {"kappa": 0.5}}, "options.kappa", "0"),
        ({"options": {"guided_times": [0.5, 0.1]}}, "options.guided_times", "exchange"),
        ({"options": {"further_half_lives_kimg": [1, 1.0]}}, "options.further_half_lives_kimg", "once"),
        ({"options": {"further_half_lives_kimg": [1]}}, "options.further_half_lives_kimg", "snapshot_kimg"),
        ({"method": "sid"}, "teacher", "name its network"),
        ({"method": "sid", "teacher": "net.safetensors"}, "network", "remove it"),
    ],
)
def test_a_fault_is_one_line(change, place, remedy):
    from sida.config.settings import from_mapping

    with pytest.raises((SettingError, UserError)) as caught:
        from_mapping(DistillConfig, {**SPEC, **change}, "spec")
    assert place in str(caught.value)
    assert remedy in str(caught.value)
    functools.partial(from_mapping, DistillConfig, SPEC, "spec")()


@pytest.mark.parametrize(("half", "share"), [("float16", 0.01), ("bfloat16", 0.08)])
def test_half_precision_is_accepted_where_the_difference_is_larger_than_its_rounding(half, share):
    options = {"derivative": "difference", "share": [1.0, share]}
    DistillConfig(**{**SPEC, **HALF, "half": half, "options": options})
