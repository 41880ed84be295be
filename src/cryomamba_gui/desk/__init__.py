"""What one window works with, without a window: the engine, its jobs, and what is remembered."""
