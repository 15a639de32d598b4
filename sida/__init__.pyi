from sida.methods import distill as distill
from sida.sampling.generator import Generator as Generator
from sida.sampling.generator import load as load
from sida.training import train_teacher as train_teacher

__version__: str
