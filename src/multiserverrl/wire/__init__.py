"""What travels, and the rules of a session. Pure: no socket, clock, thread, random source or log."""
