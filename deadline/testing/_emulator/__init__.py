"""An emulator of Lambda, which kills at the timeout."""
