"""Classes of settings and their checks, lookup of names, class counts, families of networks; nothing imports torch."""
