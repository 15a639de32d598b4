"""Networks on disk: safetensors of our own, and the authors' pickles read without trusting them."""

from sida.checkpoint.network_file import load_network, read_metadata, save_network

__all__ = ["load_network", "read_metadata", "save_network"]
