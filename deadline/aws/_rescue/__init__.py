"""The last layers: what is left behind, what kills the process, and what the next one reads."""
