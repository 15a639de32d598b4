"""Settings classes and their checks, plugins, resources, label counts, network families; no torch."""
