"""The machine a job runs on: devices, TF32, CUDA graphs, counter-based randomness, provenance."""
