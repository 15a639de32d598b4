"""Cost of the targets of a preset, and requirements that are missing on a machine, before work starts."""
