"""Commands and tasks that look after a server."""
