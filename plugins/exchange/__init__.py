"""Numbers and networks for others: the Hub, Every Eval Ever, RO-Crate, checklists, citations and the board."""
