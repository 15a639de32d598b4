"""sida: score identity distillation (SiD, SiDA, SiD2A) of diffusion teachers into one-step generators."""

__version__ = "0.1.0"
