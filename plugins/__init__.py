"""Plugins: one folder for each feature that the papers' tables do not need (see sida/config/registries.py)."""
