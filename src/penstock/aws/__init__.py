"""Penstock on AWS: what Lambda calls."""
