"""IR-QLoRA."""
