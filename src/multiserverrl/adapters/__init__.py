"""Thin adapters for trainers that do not take a Gymnasium vector env: one file a library, imported by name."""
