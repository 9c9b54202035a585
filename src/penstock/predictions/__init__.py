"""Churn predictions: a CSV of customers in, risk with exact reasons out.

Nothing here is imported by the rest of Penstock at start-up: numpy and pyarrow come with the
extra `predictions`, LightGBM with `train`.
"""
