"""Measuring: from generated or given images to one record per generator and trial, under a protocol."""
