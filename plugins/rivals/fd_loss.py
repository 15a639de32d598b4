"""FD-Loss: fine-tunes a finished generator on its Fréchet distance to real images, in the features of judges.

A judge is a feature network with the mean and covariance of the real images' features. There is no teacher and no
discriminator. A metric in the features of a judge may favour a generator that this judge trained.

Source: FD-Loss (arXiv:2604.28190); the first release of its code (commit 5c03b811 in cwhoaon/FD-Loss): main_fd.py,
frechet_distance/losses.py, queue.py. Differences from that code: docs/differences.tsv.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from sida import sampling, training
from sida.config.recipe import StudentConfig
from sida.config.settings import Count, NotNegative, Range, Settings
from sida.errors import SettingError, UserError
from sida.eval.features.registry import extractor_entry, make_extractors
from sida.late import Tensor, torch
from sida.machine import tf32
from sida.methods.method import Exposure, Method, Parts, Passes
from sida.noise import Draws, uniform, uniform_labels, unit_noise

#: Added to a distance before a loss is divided by it.
NORM_EPS = 0.01
#: Real images in a batch of a judge.
_BATCH = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class FDLossOptions(Settings):
    """Judges and statistics of FD-Loss. Defaults are from the released recipes of its main table.

    Attributes:
        judges: Extractors of the distances, by the names that protocols give them; their losses are added.
        statistics: ``average``: running averages of the generated features' first and second moments; ``queue``: the
            latest features themselves.
        decay: Share that a running average keeps in a step.
        population: Images of the starting generator that fill the statistics; length of a queue.
        lr_rampup_kimg: Thousands of images over which the rate rises linearly from 0, before it falls to 0 as a half
            cosine.
    """

    judges: tuple[str, ...] = ("inception",)
    statistics: Literal["average", "queue"] = "average"
    decay: Annotated[float, Range(least=0, below=1)] = 0.999
    population: Count = 50_000
    lr_rampup_kimg: NotNegative = 6400.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.judges or len(set(self.judges)) < len(self.judges):
            raise SettingError("judges", "must name one extractor or more, each once")

    @staticmethod
    def recorded(options: Mapping[str, Any]) -> dict[str, Any]:
        """Options as they enter a run's digest: with the digests of the judges."""
        judges = options.get("judges", FDLossOptions.judges)
        return {**options, "judges": {name: judge.sha256 for name, judge in make_extractors(judges).items()}}

    def assets(self, resolution: int) -> list[str]:
        """Registered downloads of a training."""
        return [asset for judge in self.judges for asset in extractor_entry(judge).assets]

    def loss_networks(self, resolution: int) -> list[str]:
        """Networks whose gradients train the generator."""
        return [*self.judges]

    def feature_gflop(self, resolution: int) -> float:
        """Operations of an iteration in the judges, forward and backward, in GFLOP per image."""
        return sum(2 * extractor_entry(judge).gflop for judge in self.judges)

    def check(self, config: StudentConfig) -> None:
        """Refuses settings that do not fit a distance, which is not a sum over images.

        Raises:
            SettingError: A step has several micro-batches, or more images than a queue.
        """
        if config.batch_gpu not in (None, config.batch_size):
            raise SettingError("batch_gpu", "a distance needs all images of a step at once", "remove it")
        if self.statistics == "queue" and config.batch_size > self.population:
            raise SettingError("options.population", "must be at least batch_size", f"take {config.batch_size}")


class Judge(NamedTuple):
    """A feature network, with moments of the real images' features.

    Attributes:
        features: Function from images in 0..255 that are not rounded, float ``(N, C, H, W)``, to features ``(N, F)``,
            with gradient.
        mean: Mean of the real images' features, float64 ``(F,)``.
        cov: Covariance with the divisor N − 1, float64 ``(F, F)``.
    """

    features: Callable[[Tensor], Tensor]
    mean: Tensor
    cov: Tensor


def make_judges(names: Sequence[str], dataset: Mapping[str, Any], device: torch.device) -> dict[str, Judge]:
    """Makes judges, with the moments of all images of a data set.

    Args:
        names: Extractors.
        dataset: Data-set spec.
        device: Device of the networks and of the moments.

    Raises:
        UserError: An extractor that does not exist or has no gradient, or a data set that cannot be read.
    """
    from sida.data import load_dataset
    from sida.eval.measuring.references import ImageSet, features_of

    extractors = make_extractors(names, device)
    for extractor in extractors.values():
        extractor.check_gradient()
    images = ImageSet.of_dataset(load_dataset(dataset))
    with tf32(False):
        sums, _ = features_of(images.batches(_BATCH), images.count, extractors, [*extractors], [])
    moments = {
        name: [torch.from_numpy(part).to(device) for part in (each.mean, each.cov)] for name, each in sums.items()
    }
    return {name: Judge(extractor.differentiable, *moments[name]) for name, extractor in extractors.items()}


class FrechetTerm:
    """Fréchet distance of the generated features to a judge's, and its gradient at the features of a step.

    With mean μ, covariance Σ, and R = Σ_r^½ of the real features:

        FD = |μ − μ_r|² + tr Σ + tr Σ_r − 2 tr (R Σ R)^½,        ∂FD/∂Σ = S = 1 − R (R Σ R)^−½ R

    so a row F of a step's B features has the gradient 2 a (μ − μ_r) + 2 b S (F − μ), where a = b = (1 − decay)/B for
    running averages, a = 1/N and b = 1/(N − 1) for a queue of N.

    Args:
        judge: The judge.
        options: Kind of the statistics.
    """

    def __init__(self, judge: Judge, options: FDLossOptions) -> None:
        self.judge, self.options = judge, options
        self.mean, cov = judge.mean.double(), judge.cov.double()
        values, vectors = torch.linalg.eigh(cov)
        self._root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        self._trace = cov.trace()
        width, zeros = len(self.mean), self.mean.new_zeros
        self.filled = torch.zeros((), dtype=torch.int64)
        if options.statistics == "queue":
            self._kept = {"queue": zeros(options.population, width).float()}
        else:
            self._kept = {"first": zeros(width), "second": zeros(width, width)}

    def fill(self, features: Tensor) -> None:
        """Adds features ``(N, F)`` of the starting generator, until there are ``population``."""
        begin = int(self.filled)
        if self.options.statistics == "queue":
            self._kept["queue"][begin : begin + len(features)] = features
        else:
            self._average(moments(features), begin / (begin + len(features)))
        self.filled += len(features)

    def __call__(self, features: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the features of a step ``(N, F)`` into the statistics.

        Args:
            features: Features of this process's images.
            moments: :func:`moments` of the features, averaged over all processes.

        Returns:
            The distance, float64 ``()``, and its gradient at ``features``, times the images of all processes.
        """
        assert moments.shape == (1 + features.shape[1], features.shape[1])
        rows = features.detach().double()
        count, keep = len(rows), self.options.decay
        if self.options.statistics == "queue":
            slots = ((int(self.filled) + torch.arange(count)) % self.options.population).to(rows.device)
            self.filled += count
            self._kept["queue"][slots] = rows.float()
            queue = self._kept["queue"].double()
            mean, shares = queue.mean(0), (count / len(queue), count / (len(queue) - 1))
            cov = (queue - mean).T @ (queue - mean) / (len(queue) - 1)
        else:
            self._average(moments, keep)
            mean, shares = self._kept["first"].clone(), (1 - keep, 1 - keep)
            cov = self._kept["second"] - torch.outer(mean, mean)
        distance, slope = self.distance(mean, cov)
        gradient = shares[0] * 2 * (mean - self.mean) + shares[1] * 2 * (rows - mean) @ slope
        return distance, gradient

    def distance(self, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
        """FD and S of moments, float64."""
        inner = self._root @ cov @ self._root
        values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
        roots = values.clamp(min=0).sqrt()
        # The pseudo-inverse: a direction without variance would give 1/0.
        inverse = torch.where(values > values.amax() * len(values) * torch.finfo(values.dtype).eps, 1 / roots, 0.0)
        root_vectors = self._root @ vectors
        slope = torch.eye(len(mean)).to(mean) - root_vectors * inverse @ root_vectors.T
        return (mean - self.mean).square().sum() + cov.trace() + self._trace - 2 * roots.sum(), slope

    def _average(self, moments: Tensor, keep: float) -> None:
        self._kept["first"].lerp_(moments[0], 1 - keep)
        self._kept["second"].lerp_(moments[1:], 1 - keep)

    def state(self) -> dict[str, Tensor]:
        """See :class:`sida.training.optimizer.Resumable`."""
        return {**self._kept, "filled": self.filled}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See :class:`sida.training.optimizer.Resumable`."""
        for name, value in self.state().items():
            value.copy_(state[name])


def moments(features: Tensor) -> Tensor:
    """First moments of features ``(N, F)``, and below them the second ones, float64 ``(1 + F, F)``."""
    rows = features.detach().double()
    return torch.cat([rows.mean(0)[None], rows.T @ rows / len(rows)])


class FrechetLoss:
    """Loss of a generator: Σ FD / (stopgrad FD + 0.01) over judges; its value stays just below the number of judges.

    Args:
        terms: Distances by the judges' names.
        ranks: Returns the processes that train together.
        draw: ``draw(number)`` yields batches of images of the starting generator, ``number`` in total; called once in a
            run.
    """

    def __init__(
        self, terms: Mapping[str, FrechetTerm], ranks: Callable[[], training.Ranks], draw: Callable[[int], Any]
    ) -> None:
        self.terms, self._ranks, self._draw = terms, ranks, draw

    def __call__(self, batch: training.MicroBatch) -> dict[str, Tensor]:
        """Terms by name, float32 ``(N,)`` each: the loss ``fd``, and each judge's distance, which has no gradient."""
        ranks = self._ranks()
        self._begin(ranks)
        count, pixels = len(batch.images), _bytes(batch.images)
        value, pull = batch.images.new_zeros(count), batch.images.new_zeros(count)
        features_by_judge = {name: term.judge.features(pixels) for name, term in self.terms.items()}
        shared_moments = {name: moments(features) for name, features in features_by_judge.items()}
        for both in shared_moments.values():
            ranks.average(both)
        # If one judge's features are not finite, the step is dropped for all judges, whose statistics stay in step.
        finite = all(bool(both.isfinite().all()) for both in shared_moments.values())
        if not finite:
            batch.mask = batch.images.new_zeros(count, dtype=torch.bool)
        distances = {}
        for name, features in features_by_judge.items():
            nothing = features.new_zeros(()), torch.zeros_like(features)
            distance, gradient = self.terms[name](features, shared_moments[name]) if finite else nothing
            scale = 1 / (distance + NORM_EPS)
            distances[f"fd_{name}"] = distance.to(value).expand(count)
            value = value + (distance * scale).to(value)
            # A surrogate with the distance's gradient; the line with `pull.detach()` below removes its value.
            pull = pull + (features * (scale * gradient).to(features)).sum(1)
        terms = {"fd": value + (pull - pull.detach()), **distances}
        return {name: batch.select_valid(term)[0] for name, term in terms.items()}

    def _begin(self, ranks: training.Ranks) -> None:
        """Fills empty statistics.

        Raises:
            UserError: There is a queue and more than one process; a state would hold the queue of rank 0 only.
        """
        options = [term.options for term in self.terms.values()]
        if any(term_options.statistics == "queue" for term_options in options) and ranks.world_size > 1:
            raise UserError("options.statistics", "a queue is for one process", "take average")
        if all(int(term.filled) for term in self.terms.values()):
            return
        with torch.no_grad():
            for images in self._draw(options[0].population):
                for term in self.terms.values():
                    term.fill(term.judge.features(_bytes(images)))


def _bytes(images: Tensor) -> Tensor:
    """Images in [−1, 1] in the range 0..255; truncation to bytes lowers x · 127.5 + 128 by ½ on average."""
    return images * 127.5 + 127.5


@dataclasses.dataclass(frozen=True)
class CosineSchedule(training.Schedule):
    """Phases of a method whose rate falls to 0 as a half cosine after its ramp-up."""

    def lr_factor(self, nimg: int) -> float:
        """See :meth:`~sida.training.schedule.Schedule.lr_factor`."""
        assert self.total_kimg is not None
        begin, end = self.lr_rampup_kimg * 1000, self.total_kimg * 1000
        share = min(max((nimg - begin) / max(end - begin, 1), 0), 1)
        return super().lr_factor(nimg) * (1 + math.cos(math.pi * share)) / 2


def make_fd_loss(parts: Parts) -> training.StudentTrainer:
    """Returns the trainer of the generator alone; statistics of the features are part of its state.

    Raises:
        UserError: A judge does not exist, has no gradient, or does not take the data's images.
    """
    config, options = parts.config, parts.options
    judges = make_judges(options.judges, config.dataset, parts.device)
    terms = {name: FrechetTerm(judge, options) for name, judge in judges.items()}
    generator = parts.optimized(parts.copy(parts.initial, config.weight_norm))

    def starting_images(number: int) -> Any:
        start: Any = parts.initial
        shape = (start.img_channels, start.img_resolution, start.img_resolution)
        with parts.seeded("fill"):
            for begin in range(0, number, config.batch_size):
                z, labels = torch.randn(min(config.batch_size, number - begin), *shape).to(parts.device), None
                if start.label_dim:
                    labels = torch.eye(start.label_dim)[torch.randint(start.label_dim, (len(z),))].to(z)
                yield sampling.one_step(start.eval(), z, labels, config.init_sigma)

    loss = FrechetLoss(terms, lambda: generator.ranks, starting_images)
    draws = {"z": unit_noise, "label": uniform}
    step = training.OptimizerStep("generator", generator, loss, "generator", draws=draws, labels=_uniform_labels)
    schedule = CosineSchedule(**vars(parts.schedule(lr_rampup_kimg=options.lr_rampup_kimg)))
    statistics = {f"judge-{name}": term for name, term in terms.items()}
    return training.StudentTrainer([step], schedule, config, graphs=False, resumable=statistics)


def _uniform_labels(class_labels: Tensor, draws: Draws) -> Tensor:
    """Uniform classes instead of the data's, float32 ``(N, label_dim)``."""
    return uniform_labels(draws["label"], class_labels.shape[1]).to(class_labels)


FD_LOSS = Method(
    name="fd-loss",
    title="FD-Loss",
    about="a finished generator lowers its Fréchet distance on chosen judges; no score (init)",
    start="generator",
    real_images=True,
    saw=Exposure(loss=("inception",)),
    options=FDLossOptions,
    trainer=make_fd_loss,
    reads=("weight_norm",),
    passes=Passes(fake_score=0, generator=3),
    official={"edm": {"betas": (0.9, 0.95), "init_sigma": 2.5, "dropout": 0.0, "ema_half_life_kimg": 500.0}},
)
