"""NIfTI-1 and NIfTI-2, single files, plain or compressed by gzip."""
