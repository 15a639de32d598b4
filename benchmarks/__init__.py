"""Speed as ratios: each benchmark times the suite against a stated baseline in the same run, interleaved."""

import os

# No tool compiles its modules in each process.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Benchmarks measure with networks that they make themselves.
os.environ.setdefault("SIDA_ALLOW_CODE", "*")
