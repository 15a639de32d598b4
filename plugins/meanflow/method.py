"""MeanFlow: a one-step generator that learns the mean velocity of a flow from images alone, without a teacher.

On the path z = (1 − t) y + t n from an image y to noise n, with the velocity v = n − y, the mean velocity from t back
to r ≤ t is u(z; t, h), h = t − r. It equals v − h du/dt along the path, which is the target:

    ℓ = Σ (u − sg[v − h du])² over an image's values,        loss = ℓ / sg(ℓ + ε)^p

du is the derivative of u for dz = v, dt = 1, dr = 0, computed forwards (:func:`torch.func.jvp`). It has no gradient, so
that u takes an evaluation with gradients and du one without; both have the same dropout mask.

SoFlow has no forward derivative: with the share s of the way to r, which falls during the training, and the network's
u_s at z − s h v and t − s h, still to r,

    ℓ = Σ (u_s − [v − (u − u_s) / s])²,   with the gradient of u in the place of u_s's

For s → 0 this is the loss above, and its gradient is a multiple of SoFlow's for each image.

Source: MeanFlow (arXiv:2505.13447); Gsunshine/py-meanflow:meanflow/models/{meanflow,time_sampler}.py (CIFAR-10),
Gsunshine/meanflow:meanflow.py (ImageNet 256). The loss ``v``: iMF (arXiv:2512.02012); Lyy-iiis/imeanflow:imf.py.
The difference: SoFlow (arXiv:2512.15657); zlab-princeton/SoFlow:models.py, train.py (commit 3b60d60).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from sida import networks, training
from sida.config.recipe import StudentConfig
from sida.config.samplers import INFINITE
from sida.config.settings import Finite, Fraction, NotNegative, Positive, Range, Settings
from sida.errors import SettingError, UserError
from sida.late import Tensor, torch
from sida.methods.method import Exposure, Loss, Method, Parts, Passes
from sida.noise import Draws, normal, uniform, unit_noise

#: A share of a way.
Share = Annotated[float, Range(above=0, most=1)]
#: py-meanflow's augmentation: EDM's without vertical flips and rotations.
AUGMENTATION = {"xflip": 1e8, "scale": 1.0, "aniso": 1.0, "translate_frac": 1.0}
#: Distance of the numbers above 1 of a type, and the least share of a difference in that distance.
_SPACING, _LEAST_SHARE = {"float16": 2.0**-10, "bfloat16": 2.0**-7}, 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanFlowOptions(Settings):
    """Times, weight and guidance of MeanFlow. Defaults are those of py-meanflow's improved CIFAR-10 recipe (``v1``).

    Attributes:
        times: Order of the two logit-normal times of an image: ``capped``: r is at most t (``v1``); ``sorted``: t is
            the larger of the two (``v0``, the paper's).
        t_normal: Mean and standard deviation of logit t.
        r_normal: Mean and standard deviation of logit r.
        apart: Probability that r differs from t; with r = t an image teaches the velocity alone.
        norm_p: Exponent p of the adaptive weight; 0 is none, and with 1 the loss of an image is just below 1.
        norm_eps: ε of the adaptive weight.
        loss: Direction of du: ``u``: the path's velocity, or the guided one (MeanFlow's). ``v``: the network's own
            velocity u(z; t, 0), so that u + h sg[du] is regressed to the velocity (iMF's).
        omega: ω of the guided velocity ω v + (1 − ω − κ) u(z; t, 0; no class) + κ u(z; t, 0; class) instead of v.
        kappa: κ. The guidance's strength is ω / (1 − κ); iMF's target with strength w has ω = 1 and κ = 1 − 1/w.
        guided_times: Least and largest t of the guided velocity; outside it is v.
        derivative: ``forward``: du by a forward derivative. ``difference``: SoFlow's difference, which allows fused
            kernels and fused attention, takes less work, and allows half precision while s is at least ten times the
            spacing of its numbers at 1; its ε counts a sum of squares, SoFlow's a mean.
        share: First and last share s of ``difference``, which falls by equal factors from image to image.
        label_dropout: Probability of dropping an image's class, which then has the velocity v.
        lr_rampup_kimg: Thousands of images over which the rate rises linearly from 0 (9,600 steps of 1,024 on
            CIFAR-10).
        further_half_lives_kimg: Half-lives of further averages, written with every snapshot (``snapshot_kimg``);
            evaluations use the first average alone.
    """

    times: Literal["capped", "sorted"] = "capped"
    t_normal: tuple[Finite, Positive] = (-0.6, 1.6)
    r_normal: tuple[Finite, Positive] = (-4.0, 1.6)
    apart: Fraction = 0.75
    norm_p: NotNegative = 0.75
    norm_eps: Positive = 1e-3
    loss: Literal["u", "v"] = "u"
    omega: Finite = 1.0
    kappa: Annotated[float, Range(least=0, below=1)] = 0.0
    guided_times: tuple[Fraction, Fraction] = (0.0, 1.0)
    derivative: Literal["forward", "difference"] = "forward"
    share: tuple[Share, Share] = (1.0, 3.125e-4)
    label_dropout: Annotated[float, Range(least=0, below=1)] = 0.1
    lr_rampup_kimg: NotNegative = 0.0
    further_half_lives_kimg: tuple[Positive, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len({f"{kimg:g}" for kimg in self.further_half_lives_kimg}) < len(self.further_half_lives_kimg):
            raise SettingError("further_half_lives_kimg", "must be different numbers", "name each once")
        if self.guided_times[0] > self.guided_times[1]:
            raise SettingError("guided_times", f"must rise, got {list(self.guided_times)}", "exchange them")
        if self.derivative == "forward" and self.share != MeanFlowOptions.share:
            raise SettingError("share", "has no effect on a forward derivative", "set derivative to difference")

    @property
    def guided(self) -> bool:
        """Whether the guided velocity differs from v."""
        return self.omega != 1 or self.kappa != 0

    @property
    def passes(self) -> Passes:
        """Work of the method: u forwards and backwards (3), du (3) or u_s (1), and velocities for the target.

        torch's forward derivative of a convolution has three products, one of them for weights that do not change.
        """
        evaluates_u = self.loss == "v" or self.kappa != 0
        of_derivative = 3 if self.derivative == "forward" else 1
        return Passes(fake_score=0, generator=3 + of_derivative + self.guided + evaluates_u)

    def check(self, config: StudentConfig) -> None:
        """Refuses settings that do not fit the method.

        Raises:
            SettingError: A start other than pure noise, half precision or kernels without a forward derivative, half
                precision with a share of its rounding, further averages without snapshots, or guidance without classes.
        """
        kwargs = (config.network or {}).get("kwargs") or {}
        half = config.fp16 or (config.fp16 is None and config.device.startswith("cuda") and kwargs.get("use_fp16"))
        if config.init_sigma not in (None, INFINITE):
            raise SettingError("init_sigma", "the mean velocity starts from pure noise alone", f"set it to {INFINITE}")
        if self.derivative == "forward":
            remedy = "remove it, or set options.derivative to difference"
            if half:
                raise SettingError("fp16", "the forward derivative needs float32", remedy)
            if config.kernels not in (None, "torch"):
                raise SettingError("kernels", f"'{config.kernels}' has no forward derivative", remedy)
        elif half and min(self.share) < (least := _LEAST_SHARE * _SPACING[config.half]):
            fault = f"is {min(self.share):g} at one end: {config.half} rounds a tenth and more of that difference away"
            raise SettingError("options.share", fault, f"keep it at {least:g} or above, or set fp16 to false")
        if self.further_half_lives_kimg and config.snapshot_kimg is None:
            where, fault = "options.further_half_lives_kimg", "are written with snapshots, and snapshot_kimg is off"
            raise SettingError(where, fault, "set snapshot_kimg")
        if self.guided and not kwargs.get("label_dim", 0):
            raise SettingError("options.kappa", "guidance needs classes, and the network has none", "set it to 0")


@dataclasses.dataclass(eq=False)
class MeanFlowLoss(Loss):
    """MeanFlow's losses, as the module's docstring defines them.

    Attributes:
        options: Times, weight and guidance.
        share: s of this moment, for ``difference``.
    """

    draws = {"t_normal": normal, "r_normal": normal, "mask_t": uniform, "noise": unit_noise, "drop_t": uniform}

    options: MeanFlowOptions = dataclasses.field(default_factory=MeanFlowOptions)
    share: float = dataclasses.field(default=MeanFlowOptions.share[0], init=False)

    def begin(self, progress: float) -> None:
        """Sets s for a part of the training, 0 to 1, that has been done."""
        first, last = self.options.share
        self.share = first * (last / first) ** progress

    def pair(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Times t and r ≤ t of raw draws, which have one shape."""
        options = self.options
        t, r = (
            torch.sigmoid(draws[name] * std + mean)
            for name, (mean, std) in (("t_normal", options.t_normal), ("r_normal", options.r_normal))
        )
        latest = torch.maximum(t, r) if options.times == "sorted" else t
        return latest, torch.where(draws["mask_t"] < 1 - options.apart, latest, torch.minimum(t, r))

    def __call__(self, net: Any, batch: training.MicroBatch) -> dict[str, Tensor]:
        """Terms ``mean_flow`` and, without gradient, ``squared_error``: ℓ over its number of values; ``(N', 1, 1, 1)``.

        Args:
            net: Network with :meth:`~sida.plugins.meanflow.networks.MeanVelocity.mean_velocity`, in training mode.
            batch: Real images as ``images``; draws ``t_normal``, ``r_normal``, ``mask_t``, ``drop_t``
                ``(N, 1, 1, 1)`` and ``noise`` ``(N, C, H, W)``.
        """
        (y, augment_labels), draws = batch.clean, batch.draws
        t, r = self.pair(draws)
        assert t.shape == r.shape == (len(y), 1, 1, 1)
        h, noise = t - r, draws["noise"]
        z, velocity = y.lerp(noise, t), noise - y
        labels = batch.class_labels if batch.class_labels is not None and batch.class_labels.shape[1] else None
        velocity_of = functools.partial(net.mean_velocity, augment_labels=augment_labels)
        along, velocity, labels = self._velocities(net, velocity_of, z, t, velocity, labels, draws)
        mean = functools.partial(velocity_of, class_labels=labels)
        with torch.random.fork_rng(devices=[z.device] if z.is_cuda else []):
            u = mean(z, t, h)
        if self.options.derivative == "difference":
            step = self.share * h
            with torch.no_grad():
                later = mean(z - step * along, t - step, h - step)
                target = velocity - (u - later) / self.share
            prediction = u + (later - u.detach())
        else:
            with torch.no_grad(), networks.forward_derivatives():
                # At a fixed r, h = t − r grows as fast as t: both have the derivative 1.
                ones = torch.ones_like(t), torch.ones_like(h)
                value_and_derivative: Any = torch.func.jvp(mean, (z, t, h), (along, *ones))
            prediction, target = u, velocity - h * value_and_derivative[1]
        error = (prediction - target).square().sum(dim=(1, 2, 3), keepdim=True)
        weighted = error / (error.detach() + self.options.norm_eps) ** self.options.norm_p
        weighted, error = batch.drop_nan(weighted, error.detach() / y[0].numel())
        return {"mean_flow": weighted, "squared_error": error}

    def _velocities(
        self, net: Any, velocity_of: Any, z: Tensor, t: Tensor, velocity: Tensor, labels: Tensor | None, draws: Draws
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Velocity along which du is taken, velocity of the target, and the network's labels.

        Args:
            net: The network.
            velocity_of: Its mean velocity.
            z: Points.
            t: Times.
            velocity: v.
            labels: Classes, or None.
            draws: Raw draws.
        """
        options, still = self.options, torch.zeros_like(t)
        tangent, target = velocity, velocity
        with torch.no_grad(), _evaluating(net):
            if options.loss == "v" or options.kappa:
                tangent = velocity_of(z, t, still, labels)
            if options.guided:
                unlabelled_velocity = velocity_of(z, t, still, None)
                mixed = options.omega * velocity + (1 - options.omega - options.kappa) * unlabelled_velocity
                mixed = mixed + options.kappa * tangent
                first, last = options.guided_times
                target = torch.where((t >= first) & (t <= last), mixed, velocity)
        if labels is not None and options.label_dropout:
            is_dropped = draws["drop_t"] < options.label_dropout
            labels = torch.where(is_dropped[:, :, 0, 0], 0.0, labels)
            target = torch.where(is_dropped, velocity, target)
        return tangent if options.loss == "v" else target, target, labels


@contextlib.contextmanager
def _evaluating(net: Any) -> Iterator[None]:
    """Context with the network in evaluation mode, so that a target has no dropout."""
    before = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(before)


def make_meanflow(parts: Parts) -> training.StudentTrainer:
    """Returns MeanFlow's trainer, with further averages.

    Raises:
        UserError: The network's layer for augmentation has another width.
    """
    options, config, augment = parts.options, parts.config, parts.augment(AUGMENTATION)
    network = parts.optimized(parts.copy(parts.initial))
    width = getattr(network.net, "augment_dim", 0)
    if augment is not None and width not in (0, augment.label_dim):
        where, fault = f"{parts.where}.network.kwargs.augment_dim", f"must be {augment.label_dim} or 0, got {width}"
        raise UserError(where, fault, "change it, or set augment to null")
    further = {f"{kimg:g}": training.Average(network) for kimg in options.further_half_lives_kimg}
    loss = parts.loss()

    class MeanFlowTrainer(training.StudentTrainer):
        @property
        def snapshots(self) -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
            averages = {f"-{kimg}": (average.net, {"average_kimg": float(kimg)}) for kimg, average in further.items()}
            return super().snapshots | averages

        def begin(self, nimg: int) -> None:
            loss.begin(nimg / (config.total_kimg * 1000))

        def update_averages(self, nimg: int, images: int) -> None:
            super().update_averages(nimg, images)
            for kimg, average in further.items():
                average.update(training.ema_beta(nimg, images, float(kimg) * 1000, config.ema_rampup_ratio))

    step = training.OptimizerStep(
        "generator",
        network,
        functools.partial(loss, network.net),
        "generator",
        draws=MeanFlowLoss.draws,
        real_images=True,
        augment=augment,
        generates=False,
    )
    resumable = {f"ema-{kimg}": average for kimg, average in further.items()}
    # Both evaluations need one dropout mask, and a share that changes; a CUDA graph neither rewinds its generator nor
    # reads the number again.
    return MeanFlowTrainer(
        [step], parts.schedule(lr_rampup_kimg=options.lr_rampup_kimg), config, graphs=False, resumable=resumable
    )


#: Half-life of an average with the factor 0.9999 for each step of as many images.
_SLOW = {1024: 7097.5, 256: 1774.4}
MEANFLOW = Method(
    name="meanflow",
    title="MeanFlow",
    about="the mean velocity of a flow, from real images alone; no teacher (a recipe's network)",
    start="scratch",
    real_images=True,
    saw=Exposure(),
    options=MeanFlowOptions,
    trainer=make_meanflow,
    loss=MeanFlowLoss,
    reads=("augment", "kernels", "network"),
    psi_steps=0,
    official={
        "mean-flow": {"betas": (0.9, 0.999), "init_sigma": INFINITE, "ema_half_life_kimg": _SLOW[1024]},
        "mean-flow-dit": {"betas": (0.9, 0.95), "init_sigma": INFINITE, "ema_half_life_kimg": _SLOW[256]},
    },
)
