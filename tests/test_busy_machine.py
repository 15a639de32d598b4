"""Tests of properties say nothing about the machine: an example may take as long as a busy one needs."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=2)
@given(st.booleans())
def test_an_example_may_take_long(value):
    time.sleep(0.25)
