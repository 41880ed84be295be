"""Conformance suites: one class for each interface. Subclass it in a test module, and the plugin is proved.

Needs pytest; the suites are ordinary test classes whose fixtures a subclass overrides.
"""
