"""Settings that presets and programs share, as classes; nothing here imports torch."""
