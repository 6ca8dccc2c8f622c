"""Whether revisions can be applied while the service runs, told from their SQL."""
