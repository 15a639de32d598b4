"""Network files: the suite's safetensors, and the authors' pickles, which are read without executing them."""

from sida.networks.file import load_network, read_metadata, save_network
from sida.networks.official_file import import_official
from sida.unpickle.pickles import read_pickle
from sida.unpickle.values import read_state_dict

__all__ = [
    "import_official",
    "load_network",
    "read_metadata",
    "read_pickle",
    "read_state_dict",
    "save_network",
]
