"""The iteration of all trainings: optimizer steps one after another, and the averages.

A step draws images and noise, adds up loss and gradient over its micro-batches, and changes one network. A method is a
list of such steps: for most methods ψ's steps, then θ's. ψ is the fake score or a discriminator; θ is the generator.
A teacher has one step.

A GPU runs a small network's kernels faster than a CPU can launch them. :class:`GraphRunner` records the kernels of a
micro-batch once for each step, phase and shape as a CUDA graph, and then launches all of them at once. The kernels are
the same, so are the numbers.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sida.config.families import NULL_LABEL
from sida.config.kernels import require_kernels
from sida.config.recipe import ResolvedConfig, TeacherConfig
from sida.config.samplers import GeneratorSteps, Sampler
from sida.data.augment import AugmentPipe
from sida.errors import UserError, say
from sida.machine import Recording, RecordingError, Tensors, generator
from sida.noise import Draw, Draws, unit_noise
from sida.sampling.samplers import multi_step
from sida.training.batches import Augment, Batch, MicroBatch, augmented, seed_layers, step_draws
from sida.training.logs import IterationRecord
from sida.training.loop import Trainer
from sida.training.optimizer import Average, OptimizedNetwork, Resumable, ema_beta
from sida.training.schedule import Phase, Schedule, points_passed

#: ``batches(stream, nimg, with_images)``: micro-batches of one step; images that it does not see may be of the device
#: ``meta``, with a shape alone.
Batches = Callable[[str, int, bool], Sequence[Batch]]
#: By term of a loss: the factor of its sum, which logs show, and the schedule's weight in the gradient. The key ``""``
#: is for terms that are not listed, e.g. ``{"": (1 / 64, 1.0)}``.
Scales = Mapping[str, tuple[float, float]]
#: Losses of a micro-batch by term, times their factors, 0-dim; ``nan_count``, the number of dropped samples; and for a
#: measured micro-batch the norms of the terms' gradients with the prefix :data:`_NORM`.
Outputs = dict[str, Any]
_NORM = "norm of "
_Z: Mapping[str, Draw] = {"z": unit_noise}


@dataclasses.dataclass(frozen=True)
class OptimizerStep:
    """One kind of optimizer step of an iteration: the network that it changes, and the loss that it reduces.

    Two steps may share a network under one name (GDD's penalty is a separate step). State that a resumed run needs, in
    addition to parameters and optimizer, is a buffer of the module.

    Attributes:
        name: Of the network, in states and logs.
        network: Takes the step.
        loss: Terms of a micro-batch per element, unscaled.
        stream: Name of its own order of images and draws.
        weights: Factor of each term by its name, given C·H·W; None weighs all terms 1.
        draws: Kind of each draw by name, in the order of drawing; the generator's images are those of ``z``.
        labels: Labels of the generator's images and of the loss, ``(N, label_dim)``, from the data's and the draws;
            None: the data's.
        real_images: Whether its loss sees real images.
        augment: Augmentation that its loss gets; None is off.
        repeats: Steps in an iteration, each on images and draws of its own.
        every: Iterations from one step to the next.
        generates: Whether its loss sees the generator's images; else it sees real images instead, augmented once.
    """

    name: str
    network: OptimizedNetwork
    loss: Callable[[MicroBatch], Mapping[str, torch.Tensor]]
    stream: str
    weights: Callable[[int], Mapping[str, float]] | None = None
    draws: Mapping[str, Draw] = dataclasses.field(default_factory=lambda: _Z)
    labels: Callable[[torch.Tensor, Draws], torch.Tensor] | None = None
    real_images: bool = False
    augment: AugmentPipe | None = None
    repeats: int = 1
    every: int = 1
    generates: bool = True

    def draws_for(self, steps_taken: int, noise: str) -> dict[str, Draw]:
        """Kind of each draw by name; noise of the generator's second and later steps comes last."""
        further = range(2, steps_taken + 1) if self.generates and noise == "fresh" else ()
        return {**self.draws, **{f"noise of step {number}": unit_noise for number in further}}

    def streams(self) -> list[str]:
        """Names of the streams of an iteration's steps."""
        return [self.stream, *(f"{self.stream}-{step}" for step in range(2, self.repeats + 1))]


class EagerRunner:
    """Runs micro-batches kernel by kernel.

    Args:
        generator: Gives the images; in training mode for its own micro-batches.
        generator_steps: Its steps; unused if no optimizer step sees its images.
        through_all: Whether it learns through all steps, or through the last one taken.
    """

    def __init__(self, generator: OptimizedNetwork, generator_steps: GeneratorSteps, through_all: bool) -> None:
        self.generator, self.generator_steps, self.through_all = generator, generator_steps, through_all

    def __call__(
        self,
        step: OptimizerStep,
        scales: Scales,
        tensors: Tensors,
        augment: Augment | None,
        steps_taken: int,
        norms: bool = False,
    ) -> Outputs:
        """Computes the losses of a micro-batch, whose gradient is added to the network's.

        Args:
            step: The step.
            scales: Factors of its terms.
            tensors: Tensors by name: draws, ``labels`` and ``real`` images if the step has them.
            augment: Augmentation with the draws of this micro-batch.
            steps_taken: Steps that the generator takes of all, from the first on.
            norms: Whether the gradient's norm is returned for each of several terms; the network has no gradient yet.
        """
        self.steps_taken, self.norms = steps_taken, norms
        if augment is not None:
            images = self._run(self._images, step, scales, tensors)["images"]
            real_images = tensors.get("real") if step.generates else None
            tensors = {**tensors, "images": images, **augmented(augment, images, real_images)}
        return self._run(self._losses, step, scales, tensors)

    def _run(self, function: Callable[..., Outputs], step: OptimizerStep, scales: Scales, tensors: Tensors) -> Outputs:
        return function(step, scales, tensors)

    def _images(self, step: OptimizerStep, scales: Scales, tensors: Tensors) -> Outputs:
        """The generator's images, with a gradient in its own step; real images for a step that sees those alone."""
        if not step.generates:
            return {"images": tensors["real"]}
        fresh = (tensors[f"noise of step {number}"] for number in range(2, self.steps_taken + 1))
        inputs = tensors["z"], tensors.get("labels"), self.generator_steps, lambda _: next(fresh)
        taken: dict[str, Any] = {"steps_taken": self.steps_taken, "through_all": self.through_all}
        with torch.set_grad_enabled(step.network is self.generator):
            return {"images": multi_step(self.generator.net, *inputs, **taken)}

    def _losses(self, step: OptimizerStep, scales: Scales, tensors: Tensors) -> Outputs:
        """Computes the losses and adds their gradient; a term with the weight 0 has no backward pass."""
        images = tensors["images"] if "images" in tensors else self._images(step, scales, tensors)["images"]
        micro_batch = MicroBatch(images, tensors.get("labels"), tensors.get("real"), tensors)
        losses, terms = {}, {}
        for name, per_element in micro_batch.finalize(_named_terms(step, micro_batch, scales)).items():
            factor, weight = scales[name] if name in scales else scales[""]
            # A sum, because dropped samples (zeros) and divided batches must not change the divisor.
            value = per_element.sum() * factor
            losses[name] = value.detach()
            if weight:
                terms[name] = value if weight == 1 else weight * value
        # A method may log a term without a gradient, which has no share of the loss's.
        norms, learned = {}, {name: value for name, value in terms.items() if value.requires_grad}
        if terms and not learned:
            fault = f"no term depends on the parameters of '{step.name}': {', '.join(losses)}"
            raise UserError("loss", fault, "compute them with gradients")
        if learned:
            first, *others = learned.values()
            total = sum(others, first)
            if not (self.norms and others):
                total.backward()
            else:
                # The first term's gradient is that of all terms without the others', which saves its own backward pass.
                flat = step.network.flat
                gradients = [flat.gradient_of(term) for term in others]
                total.backward()
                gradients.insert(0, flat.gradient() - torch.stack(gradients).sum(0))
                norms = {f"{_NORM}{name}": gradient.norm() for name, gradient in zip(learned, gradients)}
        return {**losses, **norms, "nan_count": micro_batch.dropped}


def _named_terms(step: OptimizerStep, batch: MicroBatch, scales: Scales) -> Mapping[str, torch.Tensor]:
    """Terms of a step's loss, each of which has a weight.

    Raises:
        UserError: The loss of a custom method returns something else.
    """
    terms = step.loss(batch)
    if not isinstance(terms, Mapping):
        fault = f"the step of '{step.name}' returns {type(terms).__name__}, not terms by name"
        raise UserError("loss", fault, "return {name: tensor}")
    if unweighted := [name for name in terms if name not in scales and "" not in scales]:
        fault = f"the step of '{step.name}' returns '{unweighted[0]}', which weights() does not name"
        raise UserError("loss", fault, f"weights() names {', '.join(scales)}: use equal names")
    return terms


class GraphRunner(EagerRunner):
    """Records micro-batches as CUDA graphs, which share one pool of memory, and replays them.

    Augmentation draws on the CPU and cannot be recorded: with it the images are one graph and the rest is another. If
    kernels cannot be recorded (a custom loss that reads values, say), this micro-batch and all after it run kernel by
    kernel; one line reports the reason.

    Args:
        networks: All networks: recording must not change them.
        generator: See :class:`EagerRunner`, as for the further arguments.
    """

    def __init__(self, networks: Sequence[OptimizedNetwork], generator: OptimizedNetwork, *steps: Any) -> None:
        super().__init__(generator, *steps)
        self.networks = networks
        # By step, steps of the generator, norms and shapes: recordings, each with the scales of its terms.
        self._recordings: dict[object, list[tuple[Scales, Recording]]] = {}
        # By length: a micro-batch's gradient is gathered before the next one writes its own.
        self._gradients: dict[int, torch.Tensor] = {}
        self._pool: object = torch.cuda.graph_pool_handle()
        self._given_up = False

    def __call__(
        self,
        step: OptimizerStep,
        scales: Scales,
        tensors: Tensors,
        augment: Augment | None,
        steps_taken: int,
        norms: bool = False,
    ) -> Outputs:
        """See :meth:`EagerRunner.__call__`."""
        try:
            outputs = super().__call__(step, scales, tensors, augment, steps_taken, norms)
        except RecordingError as reason:
            self._given_up = True
            self._recordings.clear()
            self._gradients.clear()
            step.network.flat.zero_grad()
            say(f"cuda_graphs: {reason}; the run continues kernel by kernel")
            outputs = super().__call__(step, scales, tensors, augment, steps_taken, norms)
        if "gradient" not in outputs:
            return outputs
        step.network.add_gradient(outputs.pop("gradient"))
        # A replay writes into the same memory again.
        return {name: value.clone() for name, value in outputs.items()}

    def _run(
        self, function: Callable[..., Outputs], step: OptimizerStep, scales: Scales, batch_tensors: Tensors
    ) -> Outputs:
        """Outputs of a function of a micro-batch's tensors, by a recording that is made at the first call."""
        if self._given_up:
            return function(step, scales, batch_tensors)
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in batch_tensors.items())
        recordings = self._recordings.setdefault((id(step), self.steps_taken, self.norms, shapes), [])
        for recorded_scales, recording in recordings:
            if all(scales[name] == scale for name, scale in recorded_scales.items()):
                return dict(recording(batch_tensors))
        # A call of a network may change these: weights that it normalises, and buffers.
        changing = [value for network in self.networks for value in (network.flat.vector, *network.net.buffers())]
        with_gradient = lambda tensors: self._with_gradient(step, function(step, scales, tensors))
        recording = Recording(with_gradient, batch_tensors, self._pool, changing)
        # The recording is the first to know the loss's terms; only changes of their scales need another recording.
        recordings.append(({name: scale for name, scale in scales.items() if name in recording.outputs}, recording))
        return dict(recording(batch_tensors))

    def _with_gradient(self, step: OptimizerStep, outputs: Outputs) -> Outputs:
        """Adds the gradient of losses to their outputs, and takes it from the parameters."""
        if "images" in outputs:
            return outputs
        flat = step.network.flat
        size = len(flat.vector)
        if size not in self._gradients:
            self._gradients[size] = torch.empty_like(flat.vector)
        gradient = flat.gradient(out=self._gradients[size])
        flat.zero_grad()
        count = torch.as_tensor(outputs["nan_count"], device=flat.vector.device)
        return {**outputs, "gradient": gradient, "nan_count": count}


class StepTrainer(Trainer):
    """Repeats an iteration of optimizer steps, and averages networks.

    All networks other than the one that a step optimizes are frozen, in evaluation mode if they have one. In the
    warm-up phase the last step is skipped; this changes no other draw, because draws depend on counters only.

    Args:
        steps: Optimizer steps in the order of an iteration; the last is that of the product.
        schedule: Phases by images seen.
        config: Seed and half-life of the average.
        averages: Averages by name; the first is the product of the run.
        resumable: Further parts by name whose state a resumed run needs.

    Attributes:
        generator_steps: Steps of the generator.
        through_all: Whether the generator learns through all of its steps, or through the last one taken.
        batches: Source of images and labels, set before the first iteration; all streams have equally many images.
    """

    batches: Batches
    generator_steps = GeneratorSteps()
    through_all = False

    def __init__(
        self,
        steps: Sequence[OptimizerStep],
        schedule: Schedule,
        config: ResolvedConfig | TeacherConfig,
        averages: Mapping[str, Average],
        resumable: Mapping[str, Resumable] | None = None,
    ) -> None:
        self.steps, self.schedule, self.config, self.begun = list(steps), schedule, config, schedule.begun
        super().__init__({step.name: step.network for step in steps}, averages, resumable)
        self.device = steps[-1].network.flat.vector.device
        self._run = EagerRunner(steps[-1].network, self.generator_steps, self.through_all)

    def taken_steps(self, nimg: int) -> int:
        """Steps of the generator in the iteration after ``nimg`` images, equal on all ranks: uniform in 1 … n."""
        count = self.generator_steps.count
        if count == 1:
            return 1
        return 1 + int(torch.randint(count, (), generator=generator(self.config.seed, "num_steps", nimg)))

    def iteration(self, nimg: int, draws: Mapping[str, Sequence[Draws]] | None = None) -> IterationRecord:
        """Does all steps and updates the averages.

        Args:
            nimg: Images seen before this iteration, over all devices.
            draws: Replacements for the random tensors of streams, one mapping per micro-batch. Names missing from a
                mapping are drawn.
        """
        self.begin(nimg)
        phase, record, replacements = self.schedule.at(nimg), IterationRecord(), draws or {}
        *_, last = self.steps
        images = self.ranks.world_size * sum(len(like) for like, _ in self.batches(last.stream, nimg, False))
        tick = (self.config.tick_kimg * 1000, None)
        first = nimg == 0 or points_passed(nimg, *tick) > points_passed(nimg - images, *tick)
        for step in self.steps:
            if nimg // images % step.every == 0 and (step is not last or phase.update_generator):
                for stream in step.streams():
                    self._take_step(
                        step, stream, nimg, phase, replacements.get(stream, ()), record, first and step is last
                    )
        self.update_averages(nimg, images)
        return record

    def begin(self, nimg: int) -> None:
        """Prepares for the iteration that begins after ``nimg`` images."""

    def update_averages(self, nimg: int, images: int) -> None:
        """Moves the averages after a step of ``images`` images that began after ``nimg`` images."""
        half_life = self.config.ema_half_life_kimg * 1000
        self.ema.update(ema_beta(nimg, images, half_life, self.config.ema_rampup_ratio))

    def _take_step(
        self,
        step: OptimizerStep,
        stream: str,
        nimg: int,
        phase: Phase,
        replacements: Sequence[Draws],
        record: IterationRecord,
        norms: bool,
    ) -> None:
        """Adds up the gradients of a stream's micro-batches, and steps; ``norms`` measures the first one's terms."""
        batches, seed = self.batches(stream, nimg, step.real_images), self.config.seed
        assert all(images.shape[1:] == batches[0][0].shape[1:] for images, _ in batches)
        steps_taken, shapes = self.taken_steps(nimg), [images.shape for images, _ in batches]
        kinds = step.draws_for(steps_taken, self.generator_steps.noise)
        draws = step_draws(seed, stream, nimg, shapes, self.device, kinds, self.ranks)
        total = sum(len(images) for images, _ in batches)
        weights = {"": 1.0} if step.weights is None else step.weights(batches[0][0][0].numel())
        scales = {name: (weight / total, phase.weight(name)) for name, weight in weights.items()}
        # Without the suffix for the first streams, because recorded runs drew with these names.
        purpose = "augment" if stream in ("psi", "teacher") else f"augment-{stream}"
        for network in self.networks.values():
            network.set_training(network is step.network)

        position = self.ranks.rank * total
        for number, (images, labels) in enumerate(batches):
            tensors = {**draws[number], **(replacements[number] if replacements else {})}
            if step.labels is not None and labels is not None and labels.shape[1]:
                labels = step.labels(labels, tensors)
            tensors |= {} if labels is None else {"labels": labels}
            tensors |= {"real": images} if step.real_images else {}
            seed_layers(seed, stream, nimg, position, self.device)
            augment: Augment | None = step.augment
            if step.augment is not None:
                source = generator(seed, purpose, nimg, position)
                augment = functools.partial(step.augment, generator=source)
            losses = self._run(step, scales, tensors, augment, steps_taken, norms and number == 0)
            record.nan_samples += losses.pop("nan_count")
            for name, value in losses.items():
                if name.startswith(_NORM):
                    record.term_norms[name.removeprefix(_NORM)] = value
                    continue
                record.losses[name] = record.losses[name] + value if name in record.losses else value
            position += len(images)
        record.samples += total
        report = step.network.step(phase.lr_factor)
        record.grad_norms[step.name] = report.norm
        record.bad_gradients = record.bad_gradients + report.replaced


class StudentTrainer(StepTrainer):
    """Trains a generator θ, and the networks that its losses need, and averages θ.

    Each step draws new images of the current generator.

    Args:
        steps: Optimizer steps in the order of an iteration; the generator's comes last.
        schedule: Phases by images seen.
        recipe: Seed, noise level, steps (``num_steps``, ``noise``, ``step_levels``, ``gradient``), average and CUDA
            graphs.
        graphs: Whether a step can be recorded and replayed as a CUDA graph.
        resumable: Further parts by name whose state a resumed run needs.

    Attributes:
        config: The recipe.
        generator: The last of the networks.
    """

    config: ResolvedConfig

    def __init__(
        self,
        steps: Sequence[OptimizerStep],
        schedule: Schedule,
        recipe: ResolvedConfig,
        graphs: bool = True,
        resumable: Mapping[str, Resumable] | None = None,
    ) -> None:
        self.generator, self.max_nan_share = steps[-1].network, recipe.max_nan_share
        # StepTrainer's constructor reads these two.
        self.through_all, self.generator_steps = recipe.gradient == "all", recipe.generator_steps
        step_settings = {"num_steps": recipe.num_steps, "noise": recipe.noise, "step_levels": recipe.step_levels}
        sampler: dict[str, Any] = {"kind": "one_step", "init_sigma": recipe.init_sigma}
        sampler |= step_settings if recipe.num_steps > 1 else {}
        self.sampler = Sampler(**sampler)
        guidance: dict[str, Any] = {} if recipe.guidance == 1 else {"guidance": recipe.guidance}
        guidance |= {"guide": NULL_LABEL} if recipe.guide == NULL_LABEL else {}
        self.provenance = {**guidance, "sampler": sampler}
        super().__init__(steps, schedule, recipe, {"ema": Average(self.generator)}, resumable)
        if graphs and recipe.cuda_graphs and self.device.type == "cuda":
            self._run = GraphRunner([*self.networks.values()], self.generator, self.generator_steps, self.through_all)


class Distiller(StudentTrainer):
    """Trains a fake score ψ and a generator θ against a teacher φ, and averages θ.

        distiller = Distiller(phi, psi, theta, SiDALoss(), Schedule(), recipe_of("sida", lr=1e-5))
        distiller.batches = lambda stream, nimg, with_images: [(images, labels)]
        record = distiller.iteration(nimg)

    An iteration is one or more ψ steps on images of the current θ, a θ step through the new ψ, and an update of the
    average: algorithm 1 of SiDA (arXiv:2410.14919) in the official code's order, modes and scales.

    Args:
        true_score: φ; the trainer freezes it, with fused kernels in the precision of its maps.
        fake_score: ψ; usually a copy of φ.
        generator: θ; a copy of φ, or for SiD2A of a distilled generator.
        loss: A :class:`sida.methods.method.ScoreLoss`; its ``uses_real_images`` decides whether ψ's discriminator gets
            real images.
        schedule: Phases by images seen.
        recipe: Rates and average (:func:`sida.methods.registry.recipe_of`).
        weight_decay: Decoupled weight decay of ψ and θ.
        clip_norm: Largest norm of θ's gradient; 0 is off.
        fake_score_clip_norm: Largest norm of ψ's gradient; 0 is off.
        augment: Augmentation of ψ's batches; None means none. θ's batches are never augmented.
        psi_steps: Number of ψ steps in an iteration.
        further_steps: Makes further steps of an iteration, between ψ's and θ's, with the optimized ψ.
        graphs: Whether a step can be recorded and replayed as a CUDA graph.
    """

    def __init__(
        self,
        true_score: torch.nn.Module,
        fake_score: torch.nn.Module,
        generator: torch.nn.Module,
        loss: Any,
        schedule: Schedule,
        recipe: ResolvedConfig,
        *,
        weight_decay: float = 0.0,
        clip_norm: float = 0.0,
        fake_score_clip_norm: float = 0.0,
        augment: AugmentPipe | None = None,
        psi_steps: int = 1,
        further_steps: Callable[[OptimizedNetwork], Sequence[OptimizerStep]] = lambda fake_score: (),
        graphs: bool = True,
    ) -> None:
        self.loss, self.true_score = loss, true_score.eval().requires_grad_(False)
        kernels = require_kernels(recipe.kernels)
        if kernels is not None:
            for net in (true_score, fake_score, generator):
                kernels.use_fused_kernels(net)
            # Fused convolutions use this layout; without it each call would convert the weights.
            true_score.to(memory_format=torch.channels_last)
            kernels.convert_frozen_weights(true_score)
        common: dict[str, Any] = {"eps": recipe.eps, "kernels": kernels, "weight_decay": weight_decay}
        self.fake_score = psi = OptimizedNetwork(
            fake_score, recipe.fake_score_lr or recipe.lr, recipe.betas,
            clip_value=recipe.grad_clip_value, clip_norm=fake_score_clip_norm, **common,
        )  # fmt: skip
        betas = recipe.generator_betas or recipe.betas
        theta = OptimizedNetwork(generator, recipe.lr, betas, clip_norm=clip_norm, **common)
        psi_loss = functools.partial(loss.fake_score_terms, fake_score)
        theta_loss = functools.partial(loss.generator_terms, true_score, fake_score)
        psi_draws, theta_draws = {**_Z, **loss.fake_score_draws()}, {**_Z, **loss.generator_draws()}
        psi_step = OptimizerStep(
            "fake_score",
            psi,
            psi_loss,
            "psi",
            loss.weights,
            psi_draws,
            loss.fake_score_labels,
            real_images=loss.uses_real_images,
            augment=augment,
            repeats=psi_steps,
        )
        theta_step = OptimizerStep("generator", theta, theta_loss, "generator", loss.weights, theta_draws)
        super().__init__([psi_step, *further_steps(psi), theta_step], schedule, recipe, graphs)

    def begin(self, nimg: int) -> None:
        """See :meth:`StepTrainer.begin`; a loss may have levels that move."""
        if hasattr(self.loss, "begin"):
            self.loss.begin(nimg)
