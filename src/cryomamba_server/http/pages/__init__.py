"""The status page: what it shows, and how it looks."""
