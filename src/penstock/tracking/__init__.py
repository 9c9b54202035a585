"""Parcels followed across carriers: what is asked when, and who is told what changed."""
