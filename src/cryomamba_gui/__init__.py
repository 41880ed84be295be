"""The desktop client: open a tomogram, segment it, watch, correct, take home."""
