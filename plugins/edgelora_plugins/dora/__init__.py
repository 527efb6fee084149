"""DoRA."""
