"""Network files: the suite's safetensors, and the authors' pickles, which are read without executing them."""

from sida.networks.file import copy_network, load_network, read_metadata, save_network
from sida.networks.official_file import import_official
from sida.networks.state_dict_file import import_state_dict
from sida.unpickle.pickles import read_pickle
from sida.unpickle.values import read_state_dict

__all__ = [
    "copy_network",
    "import_official",
    "import_state_dict",
    "load_network",
    "read_metadata",
    "read_pickle",
    "read_state_dict",
    "save_network",
]
