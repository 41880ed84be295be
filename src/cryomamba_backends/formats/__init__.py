"""File formats: readers of tomograms and exporters of masks."""
