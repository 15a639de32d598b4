"""workflow: presets, planning, the rules of Snakemake, archives, and documentation with computed numbers."""
