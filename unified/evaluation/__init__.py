"""Measurements over many pictures: what the cards and the README report."""
