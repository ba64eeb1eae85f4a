"""AWS calls under a deadline."""
