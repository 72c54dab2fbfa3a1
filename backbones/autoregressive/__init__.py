"""Autoregressive image models: visual tokens, prompts, sampling, checkpoints and training."""
