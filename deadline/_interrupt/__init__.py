"""Interrupting code that blocks the event loop."""
