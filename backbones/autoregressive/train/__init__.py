"""Training of the embedded autoregressive models."""
