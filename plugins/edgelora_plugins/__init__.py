"""First-party plugins, one folder per derivative. They use the same door as anybody else's."""
