"""Wrong rules, norms and products."""

from mutation import Mutation

AVERAGES, BITS, LAYOUT = "clipax/_averages.py", "clipax/_bits.py", "clipax/_layout.py"
NORMS, PLACES, SCALE = "clipax/_norms.py", "clipax/_places.py", "clipax/_scale.py"
RULES, TOGETHER = "clipax/rules.py", "clipax/_together.py"
OF_RULES = ("tests/numerics/test_rules.py",)
OF_NORMS = ("tests/numerics/test_measured_norms.py",)
OF_ROWS = ("tests/numerics/test_rows.py",)
OF_BATCHES = ("tests/numerics/test_vmap.py",)
OF_DERIVATIVES = ("tests/numerics/test_derivatives.py",)
OF_BUNDLES = ("tests/numerics/test_together.py",)
OF_REFERENCES = ("tests/methods/test_against_references.py",)
OF_PUBLISHED = ("tests/thresholds/test_published.py",)
OF_PRODUCTS = ("tests/numerics/test_products.py",)
OF_PEER_CASES = ("tests/methods/test_peer_cases.py",)
OF_EDGES = ("tests/methods/test_edges.py",)
OF_FEEDBACK = ("tests/wrappers/test_error_feedback.py",)
OF_METRICS = ("tests/observe/test_metrics.py",)
OF_STACKS = ("tests/numerics/test_stacked_layers.py",)
ON_DEVICES = ("tests/devices/eight/test_mapped.py",)

OF_NORMS_AND_RULES = [
    # Rules.
    Mutation(
        "rescale-does-not-make-up-for-rounding",
        RULES,
        "    shrunk = 1 - 2 * jnp.finfo(norm.dtype).eps\n",
        "    shrunk = 1\n",
        OF_RULES,
    ),
    Mutation(
        "rescale-clips-a-norm-that-equals-its-threshold",
        RULES,
        "    over = norm > threshold\n",
        "    over = norm >= threshold\n",
        OF_RULES,
    ),
    Mutation(
        "derivative-of-a-ratio-divides-by-a-square",
        RULES,
        "da / b - ratio * (db / b)",
        "da / b - a * db / b**2",
        OF_RULES,
    ),
    Mutation(
        "normalize-forgets-infinite-thresholds",
        RULES,
        "    free = (norm == 0) | (threshold == jnp.inf)\n"
        "    factor = _ratio(jnp.where(free, 1, threshold), jnp.where(free, 1, norm))\n",
        "    free = norm == 0\n"
        "    factor = _ratio(jnp.where(free, 1, threshold), jnp.where(free, 1, norm))\n",
        OF_RULES,
    ),
    Mutation(
        "normalize-lets-its-factor-overflow",
        RULES,
        "jnp.zeros_like(factor), jnp.minimum(factor, largest))",
        "jnp.zeros_like(factor), factor)",
        OF_RULES,
    ),
    Mutation(
        "smooth-adds-numbers-whose-sum-overflows",
        RULES,
        "    half = jnp.where(jnp.maximum(norm, jnp.maximum(threshold, addition)) > 1, 0.5, 1)\n",
        "    half = jnp.ones_like(norm)\n",
        OF_RULES,
    ),
    Mutation(
        "smooth-does-not-make-up-for-rounding",
        RULES,
        "    factor = jnp.minimum(factor * shrunk, jnp.finfo(norm.dtype).max)",
        "    factor = jnp.minimum(factor, jnp.finfo(norm.dtype).max)",
        OF_RULES,
    ),
    Mutation(
        "smooth-root-does-not-make-up-for-rounding",
        RULES,
        "    return jnp.where(free, 1, factor * shrunk).astype(norm.dtype)\n",
        "    return jnp.where(free, 1, factor).astype(norm.dtype)\n",
        OF_RULES,
    ),
    Mutation(
        "smooth-root-squares-numbers-out-of-range",
        RULES,
        "    largest = jnp.maximum(n, tau)\n",
        "    largest = jnp.ones_like(n)\n",
        ("tests/numerics/test_rules.py",),
    ),
    Mutation(
        "trust-region-bends-at-the-threshold",
        RULES,
        "_ratio(n, 0.75 * tau)",
        "_ratio(n, tau)",
        OF_REFERENCES,
    ),
    Mutation(
        "trust-region-has-a-jump-near-zero",
        RULES,
        "    series = 1 - 0.05 * x",
        "    series = 1 - 0.1 * x",
        OF_REFERENCES,
    ),
    Mutation(
        "per-sample-halves-one-of-two-terms",
        RULES,
        "norm * half + r * half)",
        "norm * half + r)",
        OF_REFERENCES,
    ),
    Mutation(
        "at-least-takes-its-floor-for-a-ceiling",
        RULES,
        "        return jnp.maximum(rescale(norm, threshold)",
        "        return jnp.minimum(rescale(norm, threshold)",
        OF_REFERENCES,
    ),
    Mutation(
        "skip-drops-a-norm-that-equals-its-threshold",
        RULES,
        "    return (norm <= threshold).astype(norm.dtype)",
        "    return (norm < threshold).astype(norm.dtype)",
        OF_RULES,
    ),
    # Averages and bits.
    Mutation(
        "average-weighs-the-new-like-the-old",
        AVERAGES,
        "(old + (1 - decay) * (new - old))",
        "(old + decay * (new - old))",
        OF_PUBLISHED,
    ),
    Mutation(
        "average-of-squares-overflows",
        AVERAGES,
        "    unit = jnp.where(largest == 0, 1, largest)\n",
        "    unit = jnp.ones_like(largest)\n",
        ("tests/laws/test_state.py",),
    ),
    Mutation(
        "bias-of-an-average-is-corrected-one-step-late",
        AVERAGES,
        "    weight = -jnp.expm1(count.astype(mean.dtype) * math.log(decay))\n",
        "    weight = -jnp.expm1((count + 1).astype(mean.dtype) * math.log(decay))\n",
        OF_REFERENCES,
    ),
    Mutation(
        "bias-of-an-average-loses-its-digits",
        AVERAGES,
        "    weight = -jnp.expm1(count.astype(mean.dtype) * math.log(decay))\n",
        "    weight = 1 - jnp.asarray(decay, mean.dtype) ** count.astype(mean.dtype)\n",
        OF_REFERENCES,
    ),
    Mutation(
        "power-of-two-loses-a-half-step",
        BITS,
        "    return power(half), power(k - half)\n",
        "    return power(half), power(half)\n",
        OF_PUBLISHED,
    ),
    Mutation(
        "exponent-is-one-too-small",
        BITS,
        "    k = biased.astype(jnp.int32) + int(bits.minexp)\n",
        "    k = biased.astype(jnp.int32) + int(bits.minexp) - 1\n",
        ("tests/observe/test_monitor.py",),
    ),
    Mutation(
        "nan-is-lowered-to-the-largest-number",
        BITS,
        "np.array(np.inf, x.dtype).view(integer) + 1) - 1",
        "np.array(np.inf, x.dtype).view(integer)) - 1",
        OF_ROWS,
    ),
    Mutation(
        "sixteen-bit-choice-is-the-wrong-way-round",
        BITS,
        "        lax.bitcast_convert_type(on_true, bits),\n"
        "        lax.bitcast_convert_type(on_false, bits),\n",
        "        lax.bitcast_convert_type(on_false, bits),\n"
        "        lax.bitcast_convert_type(on_true, bits),\n",
        OF_PEER_CASES,
    ),
    # Norms.
    Mutation(
        "squares-that-underflow-are-not-noticed",
        NORMS,
        '"float32": _Range(2.0**-64, 66)',
        '"float32": _Range(0.0, 66)',
        OF_ROWS,
    ),
    Mutation(
        "squares-of-some-entries-may-underflow",
        NORMS,
        '"float32": _Range(2.0**-64, 66)',
        '"float32": _Range(2.0**-126, 66)',
        OF_ROWS,
    ),
    Mutation(
        "squares-that-overflow-are-not-noticed",
        NORMS,
        " | (s == jnp.inf) for s in sums)",
        " for s in sums)",
        OF_BATCHES,
    ),
    Mutation(
        "rescaled-mean-squares-of-many-entries-overflow",
        NORMS,
        "    spare = math.ceil(math.log2(max(np.max(c, initial=1) for c in counts)) / 2)"
        " if norm.mean else 0\n",
        "    spare = 0\n",
        OF_NORMS,
    ),
    Mutation(
        "rescaled-norms-are-not-scaled-back",
        NORMS,
        "        return jnp.where(b, times_power(n, -k), old)\n",
        "        return jnp.where(b, n, old)\n",
        OF_BATCHES,
    ),
    Mutation(
        "batch-of-batches-counts-as-one-batch",
        NORMS,
        "layout._replace(batch=layout.batch + 1)",
        "layout._replace(batch=1)",
        OF_BATCHES,
    ),
    Mutation(
        "norm-of-any-power-may-be-rounded-down",
        NORMS,
        "        half = jnp.where(half > 1, half * (1 + jnp.finfo(half.dtype).eps), half)\n",
        "",
        ("tests/laws/test_norms.py",),
    ),
    Mutation(
        "largest-entry-of-zeros-is-not-zero",
        NORMS,
        "_reduced(layout, entries, _MAXIMUM._replace(least=-1))",
        "_reduced(layout, entries, _MAXIMUM)",
        OF_NORMS,
    ),
    Mutation(
        "slope-of-a-norm-of-zeros-is-nan",
        NORMS,
        "    nonzero = jnp.where(s == 0, 1, s)  # `s == 0` and not `s > 0`, which would lose NaN\n",
        "    nonzero = s\n",
        OF_DERIVATIVES,
    ),
    Mutation(
        "norms-are-summed-in-sixteen-bits",
        NORMS,
        "    return [x.astype(dtype) for x, dtype in zip(arrays, wide, strict=True)]\n",
        "    return list(arrays)\n",
        OF_ROWS,
    ),
    Mutation(
        "mean-square-counts-the-entries-of-one-device",
        NORMS,
        "    copies = [lax.psum(1, names) if names else 1 for names in layout.names]\n",
        "    copies = [1 for _ in layout.names]\n",
        ON_DEVICES,
    ),
    Mutation(
        "largest-entries-are-added-over-devices",
        NORMS,
        "_MAXIMUM = _Reduction(jnp.max, lax.pmax, 0)",
        "_MAXIMUM = _Reduction(jnp.max, lax.psum, 0)",
        ON_DEVICES,
    ),
    Mutation(
        "known-norm-is-used-for-another-gradient",
        NORMS,
        "(known.norm, known.layout) == (norm, layout) and _identical(known.arrays, arrays)",
        "(known.norm, known.layout) == (norm, layout)",
        ("tests/wrappers/test_skip_spikes.py",),
    ),
    # Where entries lie.
    Mutation(
        "rows-of-one-group-are-counted-once",
        LAYOUT,
        "        np.add.at(of_group, np.array(group), entries * copies[i])\n",
        "        of_group[np.array(group)] += entries * copies[i]\n",
        OF_ROWS,
    ),
    Mutation(
        "largest-small-array-is-no-row",
        LAYOUT,
        "x.size <= _SMALL and",
        "x.size < _SMALL and",
        OF_ROWS,
    ),
    Mutation(
        "group-with-fewer-rows-gets-the-last-row-as-well",
        PLACES,
        'mode="fill", fill_value=least)',
        'mode="clip")',
        OF_ROWS,
    ),
    Mutation(
        "all-rows-get-the-factor-of-the-first",
        PLACES,
        "where[group[0]] if len(set(group)) == 1 else",
        "where[group[0]] if len(group) > 1 else",
        OF_ROWS,
    ),
    Mutation(
        "entries-of-a-batch-are-taken-along-the-batch",
        PLACES,
        "lax.dynamic_index_in_dim(v, start, axis=-1, keepdims=False)",
        "lax.dynamic_index_in_dim(v, start, axis=0, keepdims=False)",
        OF_ROWS,
    ),
    Mutation(
        "vectors-are-split-at-sizes-instead-of-places",
        TOGETHER,
        "ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1].tolist()",
        "ends = [math.prod(shape) for shape in self.shapes][:-1]",
        OF_BUNDLES,
    ),
    Mutation(
        "leaves-come-in-the-order-of-their-bundles",
        TOGETHER,
        "    return [found[i] for i in range(len(found))]\n",
        "    return list(found.values())\n",
        OF_PRODUCTS,
    ),
    # Products.
    Mutation(
        "threshold-of-nan-clips-nothing",
        SCALE,
        "jnp.where(jnp.isnan(threshold), jnp.nan, factor)  # loud",
        "factor  # loud",
        OF_EDGES,
    ),
    Mutation(
        "zero-times-nan-is-not-zero",
        SCALE,
        "    if zero_is_final:  # 0 times NaN is not zero\n"
        "        result = select(_everywhere(factor == 0, x), jnp.zeros_like(x), result)\n",
        "",
        OF_FEEDBACK,
    ),
    Mutation(
        "group-that-is-lost-becomes-zero-where-nan-was-asked-for",
        SCALE,
        'lost = 0 if static.nonfinite == "zero" else jnp.nan',
        "lost = 0",
        OF_METRICS,
    ),
    Mutation(
        "tiny-factor-flushes-to-zero",
        SCALE,
        "    far = lost & (lifted < _SMALL)",
        "    far = lost & (lifted < 0)",
        OF_PRODUCTS,
    ),
    Mutation(
        "weak-type-is-lost",
        SCALE,
        "    return x.at[...].set(result) if jax.typeof(x).weak_type else result\n",
        "    return result\n",
        OF_FEEDBACK,
    ),
    Mutation(
        "factors-of-slices-multiply-the-last-axis",
        SCALE,
        "        rest = tuple(range(factor.ndim, x.ndim))\n",
        "        rest = tuple(range(x.ndim - factor.ndim))\n",
        OF_STACKS,
    ),
    Mutation(
        "sixteen-bit-entries-are-multiplied-by-a-sixteen-bit-factor",
        SCALE,
        "    wide = promoted(x.dtype, factor.dtype)\n    if 0 <",
        "    wide = x.dtype\n    if 0 <",
        OF_PRODUCTS,
    ),
]
