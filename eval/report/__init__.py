"""The report: pages, PDF, overview and comparison of what the other rooms wrote, and the documentation's numbers."""
