"""Verbs that send numbers and networks, or show those of others."""
