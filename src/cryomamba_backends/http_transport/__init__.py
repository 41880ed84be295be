"""The transport ``http(s)://``: a server somewhere else."""
