"""Measurements against peers: the same weights, pictures and run; ratios, because machines are shared and noisy."""
