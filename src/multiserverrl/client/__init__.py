"""The client: sockets, the link that survives them, and the virtual envs on top."""
