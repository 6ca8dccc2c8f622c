"""What runs the service elsewhere, and shows it."""
