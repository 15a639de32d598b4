"""Networks that a generator met before it was measured, and how: a number on such a network is no neutral number.

| word | meaning |
|---|---|
| ``loss`` | its gradients trained the generator: a discriminator on its features, LPIPS, a distance |
| ``start`` | the generator, its teacher or its latents start from the network, or are aligned with it |
| ``choice`` | a metric on the network chose the checkpoint, seed or guidance (``choice:inception``: by FID) |
| ``data`` | whether the images that it has seen have held-out ones: ``data:none`` or ``data:held-out`` |
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sida.errors import SettingError, suggestion

#: Networks by name, with the labels that they were trained on; networks with equal labels see alike.
NETWORKS = {
    **dict.fromkeys(("inception", "convnext", "vgg16", "efficientnet_lite0", "deit"), "ImageNet"),
    **dict.fromkeys(("dinov2", "clip", "mae", "siglip2", "glyphs"), ""),
    **dict.fromkeys(("digits", "digits_backbone"), "digits"),
    # `clothes` is the discriminator's network.
    **dict.fromkeys(("clothes", "clothes_plain", "clothes_residual"), "clothes"),
}
#: Metrics and losses that people name in the place of a network.
_MEANT = {"fid": "inception", "kid": "inception", "fd_dinov2": "dinov2", "lpips": "vgg16", "siglip": "siglip2"}
#: A network that is no feature network of a metric here.
OTHER = "other"


@dataclass(frozen=True, eq=False)
class Saw:
    """Networks that a generator met; each a key of :data:`NETWORKS`, a variant of one (``vgg16_bn``), or ``other``.

    Two declarations are never equal, so that one that a method inherits (``dataclasses.replace``) is not its own.
    """

    loss: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    choice: tuple[str, ...] = ()
    data: tuple[str, ...] = ()

    def __or__(self, other: Saw) -> Saw:
        pairs = ((getattr(self, how), getattr(other, how)) for how in (*WAYS, "data"))
        return Saw(*(tuple(dict.fromkeys(mine + theirs)) for mine, theirs in pairs))

    def __str__(self) -> str:
        return " ".join(f"{how}:{name}" for how in (*WAYS, "data") for name in getattr(self, how)) or "none"

    @property
    def words(self) -> str:
        """The networks for people, e.g. ``loss vgg16, deit; choice inception``."""
        return "; ".join(f"{how} {', '.join(names)}" for how in WAYS if (names := getattr(self, how))) or "none"


#: Ways of meeting a network, and what may be said of the data.
WAYS, _DATA = ("loss", "start", "choice"), ("none", "held-out")


def network_of(name: str) -> str | None:
    """Network of a name: its key in :data:`NETWORKS` (``vgg16`` of ``VGG16-BN``), or ``other``; None if neither."""
    text = re.sub(r"[^a-z0-9]+", "_", name.lower())
    if text == OTHER:
        return OTHER
    text = _MEANT.get(text, text)
    # The longest key first: 'digits_backbone' is not 'digits'.
    return next((key for key in sorted(NETWORKS, key=len, reverse=True) if text.startswith(key)), None)


def read_saw(text: str) -> Saw | None:
    """Reads ``none``, ``unknown`` (None), or words such as ``loss:vgg16 choice:inception``.

    Args:
        text: The words, separated by spaces.

    Raises:
        SettingError: A word has another form, or names no network.
    """
    if text.strip() in ("unknown", ""):
        return None
    found: dict[str, list[str]] = {how: [] for how in (*WAYS, "data")}
    for word in [] if text.strip() == "none" else text.split():
        how, _, name = word.partition(":")
        if how not in found or not name:
            fault = f"'{word}' is no word such as loss:inception"
            raise SettingError("saw", fault, f"begin it with {', '.join(found)}, or write none")
        if how == "data":
            if name not in _DATA:
                fault = f"'{word}' says nothing of held-out images"
                raise SettingError("saw", fault, f"write data:{' or data:'.join(_DATA)}")
            found[how].append(name)
            continue
        network = network_of(name)
        if network is None:
            near = suggestion(name, NETWORKS)
            raise SettingError("saw", f"no network '{name}'{near}", f"name one of {', '.join(NETWORKS)} or {OTHER}")
        found[how].append(network)
    return Saw(*(tuple(dict.fromkeys(names)) for names in found.values()))
