"""The layers of napari that show a tomogram and its labels."""
