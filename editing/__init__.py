"""Personalisation schemes: how a concept and a target make pictures."""
