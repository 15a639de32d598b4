"""Checks of results folders (``sida verify``)."""
