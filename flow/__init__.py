"""The mathematics that teacher and student share: path, times, layouts, guidance, samplers, exact oracles.

Conventions: `x_t = (1 - t) x_0 + (sigma_min + (1 - sigma_min) t) noise`, t = 0 is data, t = 1 is noise;
a velocity `v = dx_t/dt` points from data to noise. No networks and no files in this room.
"""
