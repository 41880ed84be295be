"""The engine: job store, queue, supervision of workers, events for listeners."""
