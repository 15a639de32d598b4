"""Settings classes and their checks, plugins, resources, label counts and network families, without torch."""
