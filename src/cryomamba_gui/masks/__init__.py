"""Masks that are corrected, measured, judged and taken home."""
