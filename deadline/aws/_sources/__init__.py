"""Who calls the function: how long it waits, and what it does with the answer."""
