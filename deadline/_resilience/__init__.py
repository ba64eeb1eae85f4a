"""Breakers and fallbacks."""
