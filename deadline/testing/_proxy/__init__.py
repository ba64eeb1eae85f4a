"""A proxy that injects faults between a client and a server."""
