"""The product catalog: one domain, in five files."""
