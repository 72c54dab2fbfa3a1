"""Schemes that carry attention from one picture over to another."""
