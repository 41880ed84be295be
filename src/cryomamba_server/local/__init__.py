"""The transport ``local:``: an engine in the client's own process."""
