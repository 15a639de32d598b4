"""Documentation whose numbers are computed: pages of stored studies, and numbers between markers."""
