"""Steps, critical sections and batches."""
