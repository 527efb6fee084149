"""MTLoRA."""
