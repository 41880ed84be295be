"""Tomograms, read lazily: what a window shows of a file that is larger than memory."""
