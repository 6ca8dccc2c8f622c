"""Tidegate: a product catalog whose database layer can be operated."""
