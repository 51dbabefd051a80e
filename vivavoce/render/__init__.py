"""Differentiable renderers as pure functions."""
