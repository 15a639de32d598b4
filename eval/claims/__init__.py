"""Claims: statements as data, decided by rules over measurements with their uncertainty."""
