"""Planning before work starts: cost of a preset's targets, and requirements that are missing on a machine."""
