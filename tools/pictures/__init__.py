"""Pictures of the pages, each written by a function."""
