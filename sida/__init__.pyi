from collections.abc import Callable

from sida.eval.scoring import score as score
from sida.methods import distill as distill
from sida.sampling.job import LoadedGenerator as LoadedGenerator
from sida.sampling.job import load as load
from sida.training import train_teacher as train_teacher

__version__: str

def late_names(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]: ...
