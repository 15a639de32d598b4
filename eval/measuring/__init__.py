"""Measuring: generated or given images under a protocol, from images to one record per generator and trial."""
