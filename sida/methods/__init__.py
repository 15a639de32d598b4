"""Distillation methods: what a method is, the registry, one file per method, recipes and their resolution."""
