"""MeanFlow: one-step generators without a teacher, and their networks with two times."""
