"""What a plan knows of hub and model: commits, recipes, downloads, memory. No torch."""
