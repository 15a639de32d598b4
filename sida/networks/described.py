"""Facts about networks by their description ``{class, kwargs}``; of registered classes they need no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sida.config.families import EDM, FAMILIES, Family, Latents
from sida.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def registered_family(network: Mapping[str, Any]) -> Family | None:
    """Family of a network ``{class, kwargs}`` that lists its class; None for another class."""
    own = [each for each in FAMILIES.values() if network["class"] in each.classes and each.fits(network["kwargs"])]
    # A family of some sizes follows that of all.
    return own[-1] if own else None


def family_of(network: Mapping[str, Any] | nn.Module, where: str = "network") -> Family:
    """Family of a network or of ``{class, kwargs}``; other modules count as EDM's family.

    Raises:
        UserError: The class is unknown or not permitted.
    """
    description: Any = network if isinstance(network, Mapping) else getattr(network, "init_config", None)
    if description is None:
        return EDM
    cls: Any = network
    if isinstance(network, Mapping) or not hasattr(network, "family_of"):
        if own := registered_family(description):
            return own
        from sida.networks.file import network_class

        cls = network_class(description, where)
    family: Family = cls.family_of(description["kwargs"])
    return family


def network_latents(network: Mapping[str, Any] | nn.Module) -> Latents | None:
    """Latents that a network, or one of ``{class, kwargs}``, draws; None for pixels.

    Raises:
        UserError: The class is unknown or not permitted.
    """
    if isinstance(network, Mapping):
        channels = network["kwargs"].get("img_channels")
    else:
        channels = getattr(network, "img_channels", 0)
    return family_of(network).latents_of(int(channels or 0))


def has_option(network: Mapping[str, Any], name: str, where: str = "network") -> bool:
    """Whether the class of a network ``{class, kwargs}`` takes an option of :attr:`Family.options`.

    Raises:
        UserError: The class is unknown or not permitted.
    """
    return name in _defaults(network, where)


def check_null_label(network: Mapping[str, Any], where: str) -> None:
    """Checks that a network ``{class, kwargs}`` can guide itself: it has classes and a null label.

    Networks that learned from dropped labels have one, and those whose table of classes has a row for no class.

    Raises:
        UserError: It has no null label.
    """
    kwargs = network["kwargs"]
    if not kwargs.get("label_dim"):
        raise UserError(where, "'null' is a network without its classes, and this one has none", "remove it")
    defaults = _defaults(network, where)
    learned = {name: kwargs.get(name, defaults[name]) for name in ("label_dropout", "null_label") if name in defaults}
    if any(learned.values()):
        return
    if "null_label" in learned:
        remedy = "name a guiding network; if its last class means 'no class', convert it again with --null-label"
        raise UserError(where, "the network has no row for 'no class' (null_label false)", remedy)
    reason = " (label_dropout 0)" if learned else ""
    fault = f"the network was trained without dropped labels{reason}, so it has no null label"
    raise UserError(where, fault, "name a guiding network")


def _defaults(network: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Options of a network's class with their defaults; those of :attr:`Family.options` for a registered class."""
    if family := registered_family(network):
        return family.options
    from sida.networks.file import network_class

    fields = network_class(network, where).options_of(network["kwargs"])
    return {name: field[-1] for name, field in fields.items()}
