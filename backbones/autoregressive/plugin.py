"""Registers the autoregressive backbones."""
