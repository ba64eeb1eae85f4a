"""Carrying a job on in another invocation."""
