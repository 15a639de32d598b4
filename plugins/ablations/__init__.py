"""SiDA with one part replaced (README.md)."""
