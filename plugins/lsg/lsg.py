"""SiD-LSG: SiD from a guided teacher, with guidance of the fake score in its own loss and in the generator's.

Guidance by the strength κ is classifier-free: f_κ(y; c) = f(y; no class) + κ [f(y; c) − f(y; no class)].
"""

from __future__ import annotations

import dataclasses

from sida import networks, training
from sida.config.recipe import Recipe
from sida.config.roles import setting
from sida.config.settings import Fraction, NotNegative
from sida.errors import UserError
from sida.late import Tensor, torch
from sida.methods.method import Exposure, Net, Parts, Passes, RawTerms
from sida.methods.sid import SID, SiDLoss
from sida.noise import Draw, Draws, uniform


@dataclasses.dataclass(eq=False)
class LSGLoss(SiDLoss):
    """SiD's losses with guidance of all scores; with images x = G(z; c), φ, ψ and noise as in SiD:

        denoising = w(σ) (f_ψ,κ₁ − x)²                                                              (fake score)
        sid       = (f_φ,κ₄ − f_ψ,κ₂) [(f_φ,κ₄ − x) − α (f_φ,κ₄ − f_ψ,κ₂)] / mean |x − f_φ,κ₄|      (generator)

    κ₄ is the recipe's ``guidance``, of its ``guide``. The paper's κ₃, of the fake score in the bracket, is κ₂, as in
    the released code. The fake score learns its score without a class by images whose class is dropped before they
    are drawn. With all κ = 1 and no dropped class the losses are SiD's.

    Attributes:
        alpha: α. The others of :class:`~sida.methods.sid.SiDLoss` are the same; the released code's w is ``snr``.
        guidance: κ₄.
        kappa_1: κ₁, of the fake score in its own loss; None: κ₄.
        kappa_2: κ₂, of the fake score in the generator's loss; None: κ₄.
        label_dropout: Probability of dropping a class in the fake score's step; None: 0.1 where κ₁ or κ₂ is not 1.

    Source: SiD-LSG (arXiv:2406.01561), equations of section 3; mingyuanzhou/SiD-LSG:training/sid_training_loop.py.
    """

    alpha: float = 1.0
    guidance: float = Recipe.guidance
    kappa_1: NotNegative | None = setting(None)
    kappa_2: NotNegative | None = setting(None)
    label_dropout: Fraction | None = setting(None)

    def __post_init__(self) -> None:
        self.strengths = [self.guidance if kappa is None else kappa for kappa in (self.kappa_1, self.kappa_2)]
        self.is_guided = self.strengths != [1, 1]
        self.dropped_share = 0.1 * self.is_guided if self.label_dropout is None else self.label_dropout

    def fake_score_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.fake_score_draws`; ``drop`` last, so that the others are SiD's."""
        return {**super().fake_score_draws(), "drop": uniform}

    def fake_score_labels(self, class_labels: Tensor, draws: Draws) -> Tensor:
        """See :meth:`~sida.methods.method.ScoreLoss.fake_score_labels`; a dropped class is a row of zeros."""
        return class_labels * (draws["drop"].view(-1, 1) >= self.dropped_share)

    def fake_score_terms(self, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """See :meth:`~sida.methods.method.ScoreLoss.fake_score_terms`."""
        return super().fake_score_terms(guided(fake_score, self.strengths[0]), batch)

    def generator_terms(self, true_score: Net, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """See :meth:`~sida.methods.sid.SiDLoss.generator_terms`; ``true_score`` is guided already."""
        return super().generator_terms(true_score, guided(fake_score, self.strengths[1]), batch)


def guided(net: Net, strength: float) -> Net:
    """The denoiser guided by itself without a class, in one pass with gradients through both halves."""

    def denoise(noisy: Tensor, sigma: Tensor, class_labels: Tensor, augment_labels: Tensor | None = None) -> Tensor:
        twice = lambda tensor: torch.cat([tensor, tensor])
        further = {} if augment_labels is None else {"augment_labels": twice(augment_labels)}
        labels = torch.cat([torch.zeros_like(class_labels), class_labels])
        unlabelled, labelled = net(twice(noisy), twice(sigma), labels, **further).chunk(2)
        return torch.lerp(unlabelled, labelled, strength)

    return net if strength == 1 else denoise


def make_lsg(parts: Parts) -> training.Distiller:
    """Returns SiD's trainer.

    Raises:
        UserError: The fake score is guided, and the teacher from which it starts has no classes or no null label.
    """
    loss = parts.loss()
    if loss.is_guided:
        try:
            networks.check_null_label(networks.architecture(parts.teacher), "")
        except UserError:
            fault = f"kappa_1 and kappa_2 other than 1 need a teacher with a null label ({parts.config.teacher})"
            remedy = "train it with classes and label_dropout, or set both to 1"
            raise UserError(f"{parts.where}.teacher", fault, remedy) from None
    return parts.distiller(loss)


LSG = dataclasses.replace(
    SID,
    name="lsg",
    title="SiD-LSG",
    about="SiD with guidance of the fake score, too; the teacher needs a null label (guide: 'null')",
    loss=LSGLoss,
    saw=Exposure(choice=("inception",)),
    # The scripts' average, mingyuanzhou/SiD-LSG:run_sid.sh.
    official={"edm": {"init_sigma": 2.5, "ema_half_life_kimg": 50.0}},
    passes=Passes(fake_score=7, generator=9),
    trainer=make_lsg,
)
