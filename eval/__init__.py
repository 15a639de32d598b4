"""eval: features, metrics, protocols, tables, figures and claims for generators of any origin."""
