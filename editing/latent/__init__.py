"""Directions in latent spaces and how they are found."""
