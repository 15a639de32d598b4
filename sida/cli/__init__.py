"""Command line: parsing, verbs, checks of output paths."""
