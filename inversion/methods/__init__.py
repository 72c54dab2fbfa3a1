"""Inversion methods: how a code is found."""
