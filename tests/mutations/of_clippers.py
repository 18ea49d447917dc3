"""Wrong clippers: a default, an argument that is not passed on, and those of their own kind."""

from mutation import Mutation

PARTS, PACKAGE = "clipax/_clippers/parts.py", "clipax/__init__.py"
FIXED, RELATIVE = "clipax/_clippers/fixed.py", "clipax/_clippers/relative.py"
RUNNING, WINDOWS = "clipax/_clippers/running.py", "clipax/_clippers/windows.py"
CLIPPY, SPAM = "clipax/_clippy.py", "clipax/_spam.py"
VALUE = "clipax/_value.py"
OF_ARGUMENTS = ("tests/api/test_arguments.py",)
OF_NAMES = ("tests/api/test_names.py",)
OF_STORED = ("tests/api/test_stored_states.py",)
OF_DEFINITIONS = ("tests/thresholds/test_definitions.py",)
OF_PUBLISHED = ("tests/thresholds/test_published.py",)
OF_REFERENCES = ("tests/methods/test_against_references.py",)
OF_PEER_CASES = ("tests/methods/test_peer_cases.py",)
OF_METRICS = ("tests/observe/test_metrics.py",)
OF_NONFINITE = ("tests/laws/test_nonfinite.py",)
OF_STACKS = ("tests/numerics/test_stacked_layers.py",)
ON_DEVICES = ("tests/devices/eight/test_mapped.py",)

OF_CLIPPERS = [
    # Clippers with a given threshold.
    Mutation(
        "global-norm-does-not-pass-its-axis-on",
        FIXED,
        "measures.per_tree(norm_of(ord), axis_name=axis_name)",
        "measures.per_tree(norm_of(ord))",
        OF_ARGUMENTS,
    ),
    Mutation(
        "per-layer-does-not-pass-its-stacks-on",
        FIXED,
        "measures.per_layer(norm_of(ord), stacked=stacked, axis_name=axis_name)",
        "measures.per_layer(norm_of(ord), axis_name=axis_name)",
        OF_STACKS,
    ),
    Mutation(
        "per-leaf-does-not-pass-its-axis-on",
        FIXED,
        "measures.per_leaf(norm_of(ord), stacked=stacked, axis_name=axis_name)",
        "measures.per_leaf(norm_of(ord), stacked=stacked)",
        ON_DEVICES,
    ),
    Mutation(
        "per-leaf-ignores-what-becomes-of-nan",
        FIXED,
        "    measure = measures.per_leaf(norm_of(ord), stacked=stacked, axis_name=axis_name)\n"
        "    return clip_by(measure, policy, nonfinite=nonfinite, name=name)\n",
        "    measure = measures.per_leaf(norm_of(ord), stacked=stacked, axis_name=axis_name)\n"
        "    return clip_by(measure, policy, name=name)\n",
        OF_ARGUMENTS,
    ),
    Mutation(
        "per-group-sorts-labels-and-not-their-thresholds",
        FIXED,
        "        names = tuple(max_norm)\n",
        "        names = tuple(sorted(max_norm))\n",
        OF_METRICS,
    ),
    # Clippers relative to the parameters, and rules of thumb.
    Mutation(
        "agc-does-not-pass-its-least-norm-on",
        RELATIVE,
        "thresholds.relative(clipping, eps=eps)",
        "thresholds.relative(clipping)",
        OF_ARGUMENTS,
    ),
    Mutation(
        "agc-clips-only-what-is-excluded",
        RELATIVE,
        "[not leaf for leaf in out]",
        "[bool(leaf) for leaf in out]",
        OF_REFERENCES,
    ),
    Mutation(
        "block-rms-measures-the-sum",
        RELATIVE,
        "measures.per_leaf(measures.rms,",
        "measures.per_leaf(measures.l2,",
        OF_REFERENCES,
    ),
    Mutation(
        "normalize-never-enlarges",
        RELATIVE,
        "clip_by(measure, policy, rules.normalize,",
        "clip_by(measure, policy, rules.rescale,",
        OF_REFERENCES,
    ),
    Mutation(
        "delta-clip-has-another-default",
        RELATIVE,
        "    delta: float | Array = 1e-3,\n",
        "    delta: float | Array = 1e-2,\n",
        OF_NAMES,
    ),
    Mutation(
        "auto-s-has-no-stability",
        RELATIVE,
        "rules.stabilized(stability)",
        "rules.normalize",
        OF_REFERENCES,
    ),
    # Clippers with running numbers.
    Mutation(
        "decaying-does-not-pass-its-window-on",
        RUNNING,
        "clip_rate=clip_rate, window=window\n",
        "clip_rate=clip_rate\n",
        OF_ARGUMENTS,
    ),
    Mutation(
        "zclip-is-repaired-where-the-published-rule-is-asked-for",
        RUNNING,
        '"spread": 0.0} if restart is None else',
        '"spread": 0.0} if restart is not None else',
        OF_PUBLISHED,
    ),
    Mutation(
        "zclip-restarts-above-the-largest-threshold",
        RUNNING,
        "    if restart is not None:\n"
        '        _validate.number("restart", restart, low=1)\n'
        "        policy = thresholds.restarted(policy, restart)\n"
        "    if max_norm is not None:\n"
        '        _validate.number("max_norm", max_norm)\n'
        "        policy = thresholds.capped(policy, max_norm)\n",
        "    if max_norm is not None:\n"
        '        _validate.number("max_norm", max_norm)\n'
        "        policy = thresholds.capped(policy, max_norm)\n"
        "    if restart is not None:\n"
        '        _validate.number("restart", restart, low=1)\n'
        "        policy = thresholds.restarted(policy, restart)\n",
        OF_PUBLISHED,
    ),
    Mutation(
        "adagc-restarts-at-its-threshold",
        RUNNING,
        "thresholds.restarted(policy, restart, ratio=4.0)",
        "thresholds.restarted(policy, restart)",
        OF_REFERENCES,
    ),
    Mutation(
        "warm-up-of-adagc-is-one-norm-too-long",
        RUNNING,
        "        starting = tracked.seen < warmup\n",
        "        starting = tracked.seen <= warmup\n",
        OF_REFERENCES,
    ),
    Mutation(
        "adagc-learns-unclipped-norms-in-its-warm-up",
        RUNNING,
        "policy.update(jnp.where(starting, share, norm), state, **extra_args)",
        "policy.update(norm, state, **extra_args)",
        OF_REFERENCES,
    ),
    Mutation(
        "nan-in-one-leaf-spoils-the-warm-up-of-adagc",
        RUNNING,
        "        own = (jnp.where(finite, norm, 0),)\n",
        "        own = (norm,)\n",
        OF_REFERENCES,
    ),
    Mutation(
        "warm-up-of-adagc-has-its-own-order-of-the-norm",
        RUNNING,
        "_together(policy, max_norm, warmup, 2.0 if ord is None else ord)",
        "_together(policy, max_norm, warmup, 2.0)",
        OF_REFERENCES,
    ),
    Mutation(
        "olmo-clips-the-whole-gradient",
        RUNNING,
        "    measure = measure_of(measure, ord, axis_name, measures.per_leaf)\n",
        "    measure = measure_of(measure, ord, axis_name)\n",
        OF_STORED,
    ),
    Mutation(
        "quantile-does-not-pass-its-first-threshold-on",
        RUNNING,
        "thresholds.tracked_quantile(target, rate=rate, initial=initial)",
        "thresholds.tracked_quantile(target, rate=rate)",
        OF_ARGUMENTS,
    ),
    # Clippers with a window.
    Mutation(
        "adaptive-has-another-default",
        WINDOWS,
        "    warmup: int | Array = 100,\n",
        "    warmup: int | Array = 10,\n",
        OF_NAMES,
    ),
    Mutation(
        "adaptive-does-not-pass-its-multiplier-on",
        WINDOWS,
        "percentile, multiplier=multiplier, window=window",
        "percentile, window=window",
        OF_DEFINITIONS,
    ),
    Mutation(
        "moving-average-does-not-pass-its-warm-up-on",
        WINDOWS,
        "thresholds.moving_mean(multiplier, window=window, warmup=warmup, initial=initial)",
        "thresholds.moving_mean(multiplier, window=window, initial=initial)",
        OF_DEFINITIONS,
    ),
    Mutation(
        "autoclip-always-includes-the-current-norm",
        WINDOWS,
        "cast(float, percentile), window=window, include_current=include_current\n",
        "cast(float, percentile), window=window\n",
        OF_PUBLISHED,
    ),
    Mutation(
        "median-does-not-pass-its-window-on",
        WINDOWS,
        "thresholds.periodic_median(multiplier, window=window)",
        "thresholds.periodic_median(multiplier)",
        OF_STORED,
    ),
    Mutation(
        "history-sigma-does-not-pass-its-sigmas-on",
        WINDOWS,
        "thresholds.window_deviation(sigmas, window=window, warmup=warmup)",
        "thresholds.window_deviation(window=window, warmup=warmup)",
        OF_PUBLISHED,
    ),
    Mutation(
        "axis-beside-a-measure-is-not-refused",
        PARTS,
        '    for argument, given in (("ord", ord), ("axis_name", axis_name)):\n',
        '    for argument, given in (("ord", ord),):\n',
        OF_ARGUMENTS,
    ),
    Mutation(
        "usual-measure-does-not-know-the-axis",
        PARTS,
        "usual(norm_of(ord), axis_name=axis_name)",
        "usual(norm_of(ord))",
        OF_ARGUMENTS,
    ),
    Mutation(
        "public-name-is-missing",
        PACKAGE,
        '    "thresholds",\n    "value",\n',
        '    "thresholds",\n',
        OF_NAMES,
    ),
    # Clippers of their own kind.
    Mutation(
        "clippy-forgets-what-any-parameter-may-change",
        CLIPPY,
        "jnp.abs(param).astype(wide) + absolute, smallest)",
        "jnp.abs(param).astype(wide), smallest)",
        OF_REFERENCES,
    ),
    Mutation(
        "infinite-entry-is-the-largest-number-of-clippy",
        CLIPPY,
        "    return jnp.where(jnp.isfinite(size), units, size.astype(wide))\n",
        "    return units\n",
        OF_NONFINITE,
    ),
    Mutation(
        "spam-does-not-pass-its-warm-up-on",
        SPAM,
        "thresholds.second_moment(ratio, decay=decay, every=every, warmup=warmup)",
        "thresholds.second_moment(ratio, decay=decay, every=every)",
        OF_REFERENCES,
    ),
    Mutation(
        "stable-spam-corrects-the-second-moment-by-the-first-decay",
        SPAM,
        "_averages.unbiased_root(state.root, state.seen, second)",
        "_averages.unbiased_root(state.root, state.seen, first)",
        OF_REFERENCES,
    ),
    Mutation(
        "stable-spam-shrinks-all-entries",
        SPAM,
        "jnp.where(jnp.abs(wide) > limit, wide * factor.astype(wide.dtype), wide)",
        "wide * factor.astype(wide.dtype)",
        OF_REFERENCES,
    ),
    Mutation(
        "zeros-enter-the-moments-of-stable-spam",
        SPAM,
        "where_groups((norm > 0) & (norm < jnp.inf), new, state)",
        "where_groups(norm < jnp.inf, new, state)",
        OF_REFERENCES,
    ),
    Mutation(
        "stable-spam-learns-from-a-sanitized-gradient",
        SPAM,
        "        raw = norms._replace(values=jnp.where(finite, norms.values, jnp.nan))\n",
        "        raw = norms\n",
        OF_NONFINITE,
    ),
    Mutation(
        "infinite-entry-becomes-the-limit",
        VALUE,
        "jnp.where(jnp.isfinite(norm), clipped, jnp.asarray(lost, x.dtype))",
        "jnp.where(jnp.isnan(norm), jnp.asarray(lost, x.dtype), clipped)",
        OF_PEER_CASES,
    ),
    Mutation(
        "schedule-of-the-lower-limit-has-the-wrong-sign",
        VALUE,
        "jnp.negative(schedule(step))",
        "jnp.asarray(schedule(step))",
        OF_REFERENCES,
    ),
    Mutation(
        "metric-of-a-pair-is-its-lower-side",
        VALUE,
        "jnp.maximum(*ends) for",
        "jnp.minimum(*ends) for",
        OF_METRICS,
    ),
    Mutation(
        "complex-entry-is-clipped-by-one-of-two-limits",
        VALUE,
        "        if paired:\n",
        "        if paired and low is high:\n",
        OF_ARGUMENTS,
    ),
]
