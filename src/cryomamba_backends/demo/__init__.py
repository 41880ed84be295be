"""The demonstration: a synthetic tomogram whose every label is known."""
