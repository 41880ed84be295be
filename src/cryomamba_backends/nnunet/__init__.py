"""nnU-Net models, run in memory that does not grow with the depth of the volume."""
