"""Changing the schema: one runner at a time, and errors that a script can tell apart."""
