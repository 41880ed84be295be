"""The engine: uploads, queue and recovery."""
