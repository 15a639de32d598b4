"""Tests of kernels need Triton; those of its absence do not."""

from sida.plugins.kernels.availability import unavailable_reason

if unavailable_reason() is not None:
    collect_ignore = ["test_compile.py", "test_compiled.py", "test_kernels.py", "test_networks.py"]
