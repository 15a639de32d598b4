"""Claims: functions of the evidence whose docstring is the statement, in a study's ``claims.py``.

Such a file makes ``CLAIMS``, a :class:`Claims`, and adds its functions to it. It is code: the files of the studies that
come with this package are imported, and any other file only with the user's permission.
"""

import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sida.config.lookup import ROOT, check_code_path, docstring, own_fault
from sida.errors import UserError, errors_at, settings_in
from sida.eval.claims.evidence import Evidence
from sida.eval.claims.finding import Finding
from sida.eval.results.retraining import Retraining
from sida.files.text_files import read_text

#: Studies that come with this package and have claims.
STUDIES = ("afternoon", "demo", "fashion", "gpu", "mechanisms", "papers")
#: Name of the object that a file of claims makes.
_NAME = "CLAIMS"

#: Decides the comparisons of a claim, all of which must hold.
Decide = Callable[[Evidence], Finding | Sequence[Finding]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A falsifiable statement.

    Attributes:
        id: Short id, e.g. ``C-27``.
        statement: The statement.
        decide: Decides its comparisons.
        source: Place in the paper.
        ties: Number of comparisons that may be undecided although measured.
        counterpart: Claims of the papers that a claim about other data is the counterpart of, with commas between.
        note: Further words for the reader.
    """

    id: str
    statement: str
    decide: Decide
    source: str
    ties: int
    counterpart: str
    note: str

    def findings(self, evidence: Evidence, source: str = "claims") -> tuple[Finding, ...]:
        """Findings of the comparisons, in their order.

        Args:
            evidence: Measurements, training logs and published numbers.
            source: File named in errors.

        Raises:
            UserError: A comparison names an unknown published number, or conditions that match several rows; or the
                function fails.
        """
        where = f"{source}: {self.id}"
        with errors_at(where), settings_in(where):
            try:
                result = self.decide(evidence)
                findings = tuple(result) if isinstance(result, Iterable) else (result,)
            except UserError:
                raise
            except Exception as error:
                # A partial has no code of its own.
                code = getattr(self.decide, "__code__", None)
                fault = own_fault(error, code and Path(code.co_filename))
                raise UserError(where, f"fails ({fault})", "fix it there") from error
        if not findings or not all(isinstance(finding, Finding) for finding in findings):
            raise UserError(where, "must return findings", "return what a rule of sida.eval.claims returns, or a list")
        return findings


class Claims:
    """Claims of a study.

    Args:
        about: Subject of the statements, for pages: ``the papers' data sets``.
        printed: Whether the published numbers decide as well.
        retraining: Scatter of a network that is trained again; without it statements are about single networks.
    """

    def __init__(self, about: str, *, printed: bool = False, retraining: Retraining | None = None) -> None:
        self.about, self.printed, self.retraining = about, printed, retraining
        self.claims: list[Claim] = []

    def claim(
        self, id: str, *, source: str = "", ties: int = 0, counterpart: str = "", note: str = ""
    ) -> Callable[[Decide], Decide]:
        """Decorator that adds a function, whose docstring is the statement; see :class:`Claim`.

        Raises:
            UserError: The function has no docstring, or the id is taken.
        """

        def add(decide: Decide) -> Decide:
            statement = " ".join(docstring(decide).split())
            if not statement:
                raise UserError(id, "has no docstring", "write the statement there")
            if any(claim.id == id for claim in self.claims):
                raise UserError(id, "occurs twice", "give each claim its own id")
            facts = {"source": source, "counterpart": counterpart, "note": " ".join(note.split())}
            self.claims.append(Claim(id=id, statement=statement, decide=decide, ties=ties, **facts))
            return decide

        return add


def is_shipped(path: str | Path) -> bool:
    """Whether a file of claims belongs to a study that comes with this package."""
    folder, studies = Path(path).resolve().parent, (ROOT / "studies").resolve()
    return folder.parent == studies and folder.name in STUDIES


def check_permission(path: str | Path) -> None:
    """Refuses a file of claims from outside this package, unless the user gave permission for it.

    Raises:
        UserError: The user gave none.
    """
    if not is_shipped(path):
        check_code_path(path, "a file of claims, which is code from outside this package")


def load_claims(path: str | Path) -> Claims:
    """Imports a study's ``claims.py``.

    Raises:
        UserError: No such file, no permission, or a file that fails or makes no claims.
    """
    path = Path(path)
    if path.suffix != ".py":
        raise UserError(path, "is not a Python file", "write each claim as a function (docs/add.md)")
    check_permission(path)
    module = types.ModuleType("claims")
    module.__file__ = str(path)
    try:
        # No import of the file's name: two studies' files have equal names, and a study's folder gets no compiled file.
        exec(compile(read_text(path), str(path), "exec"), module.__dict__)
    except UserError as error:
        raise UserError(f"{path}: {error.where}" if error.where else path, error.fault, error.remedy) from None
    except (Exception, SystemExit) as error:
        raise UserError(path, f"cannot be imported ({own_fault(error, path)})", "fix it there") from None
    claims = getattr(module, _NAME, None)
    if not isinstance(claims, Claims):
        raise UserError(path, f"makes no {_NAME}", f"begin it with {_NAME} = Claims(about)")
    return claims
