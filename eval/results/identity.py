"""Identity of a value: everything that decides a metric's value besides the images; the one test of comparability.

Tables (Δ, bold), added rows, comparisons, figures and claims use :func:`comparable` and no other test. Networks that
the generator was exposed to (:class:`sida.methods.method.Exposure`, in words such as ``loss:vgg16 choice:inception``)
belong to the identity: such a value is shown, but never ranked or compared.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sida.config.feature_networks import LABELS, OTHER, network_of
from sida.config.registries import Registry
from sida.errors import SettingError, UserError, suggestion
from sida.eval.features.registry import EXTRACTORS, ON_PROCESSOR, variant_digest
from sida.files.atomic import sha256_json
from sida.methods.method import Exposure

#: Values of ``data``: a generator has seen no held-out image, or some.
_DATA = ("none", "held-out")
#: Fields that comparable values have in common, with their names for people.
_COMPARED = {
    "settings": "metric",
    "n": "images per trial",
    "seed0": "first image seed",
    "classes": "classes",
    "resolution": "resolution",
    "reference": "reference",
    "extractor": "feature network",
}
#: Reason for a value of a generator whose row states no networks of its training.
UNKNOWN = "networks used in training are not stated (`saw`)"
#: Reason for a value whose feature network or reference is not known by its digest: two unknown ones are not equal.
NO_DIGEST = "its feature network or reference has no digest"
#: Word for an unknown use of held-out images, and the reason for a value of such a generator.
UNKNOWN_DATA = "unknown"
NO_DATA = "use of the held-out images in training is not stated (`data:none`)"
#: Largest share of held-out images that are in a training's data by chance: data sets have pictures twice.
_TWICE = 0.02
#: Kinds of this package without a reference.
_WITHOUT_REFERENCE = ("inception_score", "accuracy")
#: Fields of a protocol that change every metric's value and have no place of their own in an identity.
_OF_IMAGES = ("quantisation", "channels", "allow_tf32", "rehearsal")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Identity of a metric's value.

    The other metrics of a protocol, its name, its number of trials, and the content of a cache do not belong to it.

    Attributes:
        protocol: Name of the protocol, for people; not compared.
        settings: Kind of the metric, then its settings as ``key=value``, sorted, with one space between them.
        n: Images of a trial.
        seed0: First image seed of trial 0; trial t starts at ``seed0 + t·n``. None if unknown, as for published
            numbers and other groups; unknown seeds are not compared.
        classes: Distribution of the classes: ``uniform``, ``data`` (as in the data set), or a digest of counts.
        resolution: Height and width of the images; empty for any.
        reference: Digest of the real side; empty for a metric without one.
        extractor: Digest of the feature network with its options; empty for a metric without one.
        quoted: Whether a paper quotes the number from another paper, whose protocol is not known here.
        exposure: Networks that the generator was exposed to, which change no value but may exclude it from comparisons;
            None: unknown.
        held_out: Held-out images of the metric that the generator has seen, of those looked for (``3/50``), or
            ``unknown``; empty for a metric without held-out images.
    """

    protocol: str = field(compare=False)
    settings: str = ""
    n: int = 0
    seed0: int | None = None
    classes: str = ""
    resolution: str = ""
    reference: str = ""
    extractor: str = ""
    quoted: bool = False
    exposure: Exposure | None = field(default=None, compare=False)
    held_out: str = field(default="", compare=False)

    def __str__(self) -> str:
        return "the protocol of another paper" if self.quoted else f"protocol '{self.protocol}' ({self.n:,} images)"

    @property
    def sha256(self) -> str:
        """Digest of the compared fields."""
        return sha256_json({f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.compare})

    @functools.cached_property
    def networks(self) -> set[str]:
        """Networks whose features the value is computed from; ``other`` for a custom extractor."""
        pairs = (word.partition("=") for word in self.settings.split())
        extractors = {value for key, _, value in pairs if key.rpartition(".")[2] == "extractor"} - {"pixels"}
        ours = {*EXTRACTORS, *LABELS}
        return {str(network_of(name)) if name in ours else OTHER for name in extractors}

    def exposed(self, role: str) -> set[str]:
        """Networks of the value that the generator was exposed to in a way (``loss``, ``start`` or ``choice``).

        A custom extractor may be any network, so it counts where the generator was exposed to any.
        """
        networks = {network_of(name) for name in getattr(self.exposure, role, ())}
        return self.networks & {*networks, *([OTHER] if networks else [])}

    @property
    def held_out_fault(self) -> str | None:
        """Reason against a value on held-out images: training used some, or the row does not state it; or None."""
        data = getattr(self.exposure, "data", ())
        if not self.held_out or (self.held_out == UNKNOWN_DATA and data == ("none",)):
            return None
        if "held-out" in data:
            return "the generator has seen held-out images, as its row says (`data:held-out`)"
        if self.held_out == UNKNOWN_DATA:
            return NO_DATA
        num_common, num_searched = map(int, self.held_out.split("/"))
        fault = f"the generator has seen held-out images ({num_common} of {num_searched} that were looked for)"
        return fault if num_common > _TWICE * num_searched else None

    @property
    def related(self) -> set[str]:
        """Networks that trained the generator and learned from the labels that a network of the value learned from."""
        labels = {LABELS.get(name) for name in self.networks} - {None, ""}
        trainers = {name for name in getattr(self.exposure, "loss", ()) if LABELS.get(str(network_of(name))) in labels}
        return trainers if not self.exposed("loss") else set()


def comparable(a: Identity, b: Identity) -> str | None:
    """None if two values may be compared, else the reason why not: each differing field with both sides.

    A feature network's variant for processors is that network: the two differ by rounding, as two devices do.

    Args:
        a: Identity of a value.
        b: Identity of another value, or the same one.
    """
    if a.quoted or b.quoted:
        return f"{a} against {b}"
    variants = _for_processors(a), _for_processors(b)
    if variants[0].extractor == variants[1].extractor:
        a, b = variants
    reasons = []
    for name, word in _COMPARED.items():
        mine, theirs = getattr(a, name), getattr(b, name)
        if mine == theirs or (name == "seed0" and None in (mine, theirs)):
            continue
        if name == "settings":
            mine, theirs = _own_settings(mine, theirs)
        reasons.append(f"{word}: {_short_text(mine)} != {_short_text(theirs)}")
    return "; ".join(reasons) or None


def require_comparable(values: Iterable[tuple[str, str, Identity]], where: str) -> None:
    """Refuses values that have the name of their protocol and their metric in common and are not comparable.

    Args:
        values: Run, metric and identity of each value.
        where: Place, for errors.

    Raises:
        UserError: Settings, references, or weights of a feature network differ.
    """
    firsts: dict[tuple[str, str], tuple[str, Identity]] = {}
    # Unknown seeds come last: they are comparable with any.
    for run, metric, identity in sorted(values, key=lambda value: value[2].seed0 is None):
        first, other = firsts.setdefault((identity.protocol, metric), (run, identity))
        if why := comparable(other, identity):
            raise UserError(
                where,
                f"runs '{first}' and '{run}' were both measured under protocol '{identity.protocol}' but are not "
                f"comparable ({metric}: {why})",
                "measure one of them again with the other's files",
            )


def joined(digests: Sequence[str]) -> str:
    """Digest of several digests: a single one as it is; empty (unknown) without one, or if one is unknown."""
    if not digests or not all(digests):
        return ""
    return digests[0] if len(digests) == 1 else sha256_json(digests)


def reason_against(identity: Identity) -> str | None:
    """Reason why a value is neither compared nor ranked as the best of a column; None if it may be."""
    if identity.held_out_fault:
        return identity.held_out_fault
    if identity.networks and identity.exposure is None:
        return UNKNOWN
    if lacks_digest(identity):
        return NO_DIGEST
    judges = ", ".join(sorted(identity.exposed("loss")))
    return f"the generator was trained by the network of the metric ({judges})" if judges else None


def lacks_digest(identity: Identity) -> bool:
    """Whether a value's feature network or reference is not known by its digest; two unknown ones are not equal."""
    kind = identity.settings.split(" ")[0]
    referring = kind not in _WITHOUT_REFERENCE and ":" not in kind  # a custom kind may have no reference
    has_digests = identity.extractor and (identity.reference or not referring)
    return "extractor=" in identity.settings and not identity.quoted and not has_digests


def identity_of(protocol: Mapping[str, Any], metric: str, reference: str | None, extractor: str | None) -> Identity:
    """Identity of a metric under a protocol.

    Args:
        protocol: ``name`` and ``fields`` of a protocol, as in a measurement (``Protocol.record``).
        metric: Key of a metric of the protocol.
        reference: Digest of the real side.
        extractor: Digest of the feature network.
    """
    fields = protocol.get("fields", {})
    facts = dict(fields.get("metrics", {}).get(metric, {}))
    words = _flat_settings(facts | {name: fields.get(name) for name in _OF_IMAGES})
    dist = fields.get("label_dist", "")
    return Identity(
        protocol=str(protocol.get("name", "")),
        settings=" ".join([words.pop("kind", ""), *(f"{name}={value}" for name, value in sorted(words.items()))]),
        n=fields.get("num_samples", 0),
        seed0=fields.get("seed0"),
        # Only the distribution ``empirical`` has counts.
        classes=dist if dist in ("uniform", "balanced") else fields.get("labels") or ("data" if dist else ""),
        resolution=str(fields.get("resolution") or ""),
        reference=reference or "",
        extractor=extractor or "",
    )


def _for_processors(identity: Identity) -> Identity:
    """The identity of the same value by the variant for processors of its feature network, if there is one."""
    for name, (variant, words) in ON_PROCESSOR.items():
        settings = identity.settings.split()
        if f"extractor={name}" in settings and len(identity.extractor) == 64:
            text = " ".join(f"extractor={variant}" if word == f"extractor={name}" else word for word in settings)
            digest = variant_digest(identity.extractor, words)
            return dataclasses.replace(identity, settings=text, extractor=digest)
    return identity


def _flat_settings(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as ``outer.inner``, with values as text without spaces; settings that are None are left out."""
    words: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            words |= _flat_settings(value, f"{prefix}{name}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            words[prefix + name] = "_".join(text.split())
    return words


def _own_settings(mine: str, theirs: str) -> tuple[str, str]:
    """The settings that only one side has."""
    sides = [text.split() for text in (mine, theirs)]
    mine, theirs = (" ".join(word for word in one if word not in other) for one, other in (sides, sides[::-1]))
    return mine, theirs


def _short_text(value: str | int | None) -> str:
    """A field for people: numbers with separators, digests by their first digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if value and value.startswith("asset "):
        return f"{value.removeprefix('asset ')} (no digest is known here; `sida assets fetch` it)"
    return (value[:12] if len(value) == 64 else value) if value else "none"


def read_exposure(text: str) -> Exposure | None:
    """Reads ``none``, ``unknown`` (None), or words such as ``loss:vgg16 choice:inception``.

    Args:
        text: The words, separated by spaces.

    Raises:
        SettingError: A word has another form, or names no network.
    """
    if text.strip() in ("unknown", ""):
        return None
    exposure: dict[str, list[str]] = {f.name: [] for f in dataclasses.fields(Exposure)}
    for word in [] if text.strip() == "none" else text.split():
        role, _, name = word.partition(":")
        if role not in exposure or not name:
            fault = f"'{word}' is not a word such as loss:inception"
            raise SettingError("saw", fault, f"begin it with {', '.join(exposure)}, or write none")
        if role == "data" and name not in _DATA:
            fault = f"'{word}' does not state whether training used held-out images"
            raise SettingError("saw", fault, f"write data:{' or data:'.join(_DATA)}")
        value = name if role == "data" else network_of(name)
        if value is None:
            if missing := Registry("feature_networks", "feature network").missing(name):
                raise SettingError("saw", *missing)
            hint = suggestion(name, LABELS)
            raise SettingError("saw", f"no network '{name}'{hint}", f"name one of {', '.join(LABELS)} or {OTHER}")
        exposure[role].append(value)
    return Exposure(*(tuple(dict.fromkeys(names)) for names in exposure.values()))
