"""Encoders into StyleGAN: networks that predict codes of pictures in one pass, or in a few (survey section 3.3.2)."""
