"""What `tidegate doctor` looks at: everything that the service needs, and how it is right now."""
