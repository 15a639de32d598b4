"""Results: trial files, their long table and its summary, published numbers and how the two agree."""
