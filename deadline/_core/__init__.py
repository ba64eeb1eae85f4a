"""The deadline: its scope, its instants, its errors and the timer."""
