"""Storage in folders of this machine."""
