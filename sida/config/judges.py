"""Judges of trainings: functions that a package above this one provides, registered when it is imported.

``sida`` measures nothing. A training whose loss is a distance of metrics calls the functions below; the package of
metrics registers its own (``eval/__init__.py``), and the command line imports that package. A monitor, which a spec
names itself, is registered in :mod:`sida.config.lookup`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from sida.config.feature_entries import ExtractorEntry
from sida.config.registries import RegistryEntry
from sida.errors import UserError
from sida.late import Tensor

P = ParamSpec("P")
R = TypeVar("R")


class Provided(Generic[P, R]):
    """A function that this package declares and a package above provides.

    Args:
        purpose: Description of the function, for errors.
    """

    def __init__(self, purpose: str) -> None:
        self.purpose = purpose
        self._entry: RegistryEntry | None = None

    def register(self, made_by: str) -> None:
        """Registers the function ``module:object``, which is imported at its first call."""
        self._entry = RegistryEntry(made_by)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the registered function.

        Raises:
            UserError: No imported package has registered one.
        """
        if self._entry is None:
            fault = "is missing, since no package that registers it has been imported"
            raise UserError(self.purpose, fault, "use the command sida, or import sida.eval before")
        result: R = self._entry.load()(*args, **kwargs)
        return result


class Judge(Protocol):
    """A feature network, with moments of the real images' features.

    Attributes:
        mean: Mean of the features, float64 ``(F,)``.
        cov: Covariance, float64 ``(F, F)``.
    """

    mean: Tensor
    cov: Tensor

    def features(self, images: Tensor) -> Tensor:
        """Features ``(N, F)`` with gradient, of images in 0..255 that are not rounded, float ``(N, C, H, W)``."""


#: ``make(names, dataset, device)``: judges by extractor, with the moments of all images of a data-set spec.
MAKE_JUDGES: Provided[[Sequence[str], Mapping[str, Any], Any], Mapping[str, Judge]] = Provided("the maker of judges")
#: ``digests(names)``: digest of each judge, which decides its features.
JUDGE_DIGESTS: Provided[[Sequence[str]], Mapping[str, str]] = Provided("the digest of judges")
#: ``entry(name)``: entry of a judge's extractor, with its downloads.
JUDGE_ENTRY: Provided[[str], ExtractorEntry] = Provided("the table of judges")
