"""OLoRA."""
