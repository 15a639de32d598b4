"""Networks and pipelines of diffusers: read, trained as teachers and students, and exported."""
