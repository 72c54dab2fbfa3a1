"""Measures: pure functions on images and feature vectors, and the perceptual distance LPIPS.

No measure here loads a feature extractor by itself, except :class:`unified.metrics.lpips.LPIPS`, whose small
network ships inside the package. Every :class:`~unified.metrics.score.Score` names the extractor it used.
"""
