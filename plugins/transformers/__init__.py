"""Transformers of SiT, REPA and DiT, and the samplers of flows and of discrete diffusion."""
