"""Methods of distillation: one object each. A method of one's own is such an object, named ``module:object``.

Nothing here imports torch before a loss is made: command lines, sheets and tables ask :data:`METHODS` at each start.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from sida.config.discriminator import GDDOptions
from sida.config.instance import InstanceOptions
from sida.errors import UserError, suggestion
from sida.methods.defaults import GDD_DEFAULTS, INSTANCE_DEFAULTS, SID_DEFAULTS, SIDA_DEFAULTS
from sida.methods.method import Method

if TYPE_CHECKING:
    from sida.losses import SiDLoss
    from sida.methods.build import Parts
    from sida.training.iteration import Turns


def _sid_loss(parts: Parts) -> SiDLoss:
    from sida.losses import SiDLoss

    return _edm2_loss(parts, adversarial=False) if parts.family.variance_head else parts.loss(SiDLoss)


def _sida_loss(parts: Parts) -> SiDLoss:
    from sida.losses import SiDALoss

    if parts.family.variance_head:
        return _edm2_loss(parts, adversarial=True)
    return parts.loss(SiDALoss, pool=parts.config.adversarial_pool)


def _edm2_loss(parts: Parts, adversarial: bool) -> SiDLoss:
    from sida.losses import EDM2SiDALoss

    config = parts.config
    pool, logvar = config.adversarial_pool, config.logvar
    return parts.loss(EDM2SiDALoss, pool=pool, return_logvar=logvar, adversarial=adversarial)


SID = Method(
    name="sid",
    title="SiD",
    about="score identity distillation; no real images",
    start="either",
    real_images=False,
    loss=_sid_loss,
    defaults=SID_DEFAULTS,
)
SIDA = Method(
    name="sida",
    title="SiDA",
    about="with the adversarial term; starts from the teacher",
    real_images=True,
    start="teacher",
    loss=_sida_loss,
    defaults=SIDA_DEFAULTS,
)
SID2A = dataclasses.replace(
    SIDA, name="sid2a", title="SiD2A", about="the same from a distilled generator (--init)", start="generator"
)


def _gdd_loss(parts: Parts) -> Any:
    from sida.losses import GDDLoss

    return GDDLoss(parts.options.form, parts.options.r1_gamma)


def _gdd_turns(parts: Parts) -> Turns:
    from sida.methods.gdd import make_gdd

    return make_gdd(parts)


GDD = Method(
    name="gdd",
    title="GDD",
    about="a discriminator on frozen features, no score; starts from the teacher",
    start="teacher",
    real_images=True,
    loss=_gdd_loss,
    options=GDDOptions,
    turns=_gdd_turns,
    defaults=GDD_DEFAULTS,
)
GDD_I = dataclasses.replace(
    GDD, name="gdd-i", title="GDD-I", about="the same with most of the generator's convolutions frozen"
)


def _instance_loss(parts: Parts) -> Any:
    from sida.methods.instance_loss import InstanceLoss

    return InstanceLoss(parts.options.num_steps)


def _instance_turns(parts: Parts) -> Turns:
    from sida.methods.instance import make_instance

    return make_instance(parts)


INSTANCE = Method(
    name="instance",
    title="Instance",
    about="squared error to the teacher's image of the same latent; starts from the teacher",
    start="teacher",
    real_images=False,
    loss=_instance_loss,
    options=InstanceOptions,
    turns=_instance_turns,
    guided=True,
    defaults=INSTANCE_DEFAULTS,
)

#: Methods by name.
METHODS = {method.name: method for method in (SID, SIDA, SID2A, GDD, GDD_I, INSTANCE)}


def is_method(name: str) -> bool:
    """Whether a name is that of a method, or of an object that should be one (which is not imported)."""
    from sida.config.ranges import names_object

    return name in METHODS or names_object(name)


def find_method(name: str, where: str = "method") -> Method:
    """The method of that name, or ``module:object``.

    Raises:
        UserError: There is none.
    """
    if name in METHODS:
        return METHODS[name]
    if not is_method(name):
        raise UserError(f"{where}: no method '{name}'{suggestion(name, METHODS)}; or name your own as module:object")
    from sida.config.plugins import load_object

    _, found = load_object(name, where, "method")
    if not isinstance(found, Method):
        raise UserError(f"{where}: '{name}' is of type {type(found).__name__}, not a sida.methods.Method")
    return found
