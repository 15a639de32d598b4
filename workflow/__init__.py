"""Above both packages: presets, what depends on what, and the documentation of stored studies."""
