"""Measuring labels slab by slab: volumes, surfaces, pieces and places."""
