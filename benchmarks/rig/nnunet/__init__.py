"""Runs of nnU-Net models by several programs, each in a process of its own, measured."""
