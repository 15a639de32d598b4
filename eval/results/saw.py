"""Words for the networks that a generator met (:class:`sida.methods.method.Saw`): ``loss:vgg16 choice:inception``."""

from __future__ import annotations

import dataclasses
import re

from sida.errors import SettingError, suggestion
from sida.methods.method import Saw

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
#: Values of ``data``: a generator has seen no held-out image, or some.
_DATA = ("none", "held-out")


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
    found: dict[str, list[str]] = {field.name: [] for field in dataclasses.fields(Saw)}
    for word in [] if text.strip() == "none" else text.split():
        how, _, name = word.partition(":")
        if how not in found or not name:
            fault = f"'{word}' is no word such as loss:inception"
            raise SettingError("saw", fault, f"begin it with {', '.join(found)}, or write none")
        if how == "data" and name not in _DATA:
            fault = f"'{word}' says nothing of held-out images"
            raise SettingError("saw", fault, f"write data:{' or data:'.join(_DATA)}")
        meant = name if how == "data" else network_of(name)
        if meant is None:
            near = suggestion(name, NETWORKS)
            raise SettingError("saw", f"no network '{name}'{near}", f"name one of {', '.join(NETWORKS)} or {OTHER}")
        found[how].append(meant)
    return Saw(*(tuple(dict.fromkeys(names)) for names in found.values()))
