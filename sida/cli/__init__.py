"""Command line: parsing, verbs, terminal output, output path checks."""
