"""A generator as a folder for the Hugging Face Hub: weights, card, and code of a diffusers pipeline."""
