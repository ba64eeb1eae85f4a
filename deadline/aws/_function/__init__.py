"""The handler: an invocation from Lambda's call to its answer."""
