"""Long and short guidance of SiD (README.md)."""
