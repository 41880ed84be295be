"""NRRD with an attached header."""
