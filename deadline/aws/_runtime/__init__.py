"""The process between invocations: its event loop, lifespans, record and init phase."""
