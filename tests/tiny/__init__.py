"""Tiny random models for the tests."""
