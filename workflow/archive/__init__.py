"""A results folder as an archive: checked as a whole (``sida verify``), and packed as an RO-Crate."""
