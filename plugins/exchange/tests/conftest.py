"""Fixtures that other tests have, too."""
