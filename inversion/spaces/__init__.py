"""Inversion spaces: where a concept lives in a backbone."""
