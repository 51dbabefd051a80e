"""Metrics, one file each, a function each."""
