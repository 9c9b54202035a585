"""Training: a table of past customers in, a model out. Needs the extra `train`."""
