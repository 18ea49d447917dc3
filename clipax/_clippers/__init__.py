"""The named clippers: each is its equation, written as one expression over the three parts.

All of them take `nonfinite` and `name` as `clip_by` does. Those with a norm take `ord` (a number
p > 0 for the norm `(sum |x|^p)^(1/p)`, `math.inf` for the maximum, `None` for 2) and `axis_name`
(the mapped axes over which the gradient is spread, inside `shard_map` and `pmap`).
"""
