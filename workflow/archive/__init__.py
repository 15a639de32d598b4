"""Checks of results folders (``sida verify``), and export of networks (``sida export``)."""
