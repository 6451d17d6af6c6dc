"""Figures of a run as the paper draws them: grids of assets, quality against cost, training curves."""
