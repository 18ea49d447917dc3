"""Wrong thresholds, and the windows that they keep."""

from mutation import Mutation

DECAY, HISTORY = "clipax/thresholds/_decay.py", "clipax/thresholds/_history.py"
POLICY, RELATIVE = "clipax/thresholds/_policy.py", "clipax/thresholds/_relative.py"
RUNNING, WINDOW = "clipax/thresholds/_running.py", "clipax/thresholds/_window.py"
WRAP, WINDOWS = "clipax/thresholds/_wrap.py", "clipax/_windows.py"
OF_DEFINITIONS = ("tests/thresholds/test_definitions.py",)
OF_PUBLISHED = ("tests/thresholds/test_published.py",)
OF_SEQUENCES = ("tests/thresholds/test_sequences.py",)
OF_STATES = ("tests/thresholds/test_policy_states.py",)
OF_HISTORY = ("tests/thresholds/test_quality_history.py",)
OF_RUNNING = ("tests/thresholds/test_quality_running.py",)
OF_ARGUMENTS = ("tests/api/test_threshold_arguments.py",)
OF_REFERENCES = ("tests/methods/test_against_references.py",)
OF_EDGES = ("tests/methods/test_edges.py",)

OF_THRESHOLDS = [
    # Numbers and schedules.
    Mutation(
        "schedule-is-one-step-ahead",
        POLICY,
        "jnp.asarray(schedule(step)).astype(norm.dtype)",
        "jnp.asarray(schedule(step + 1)).astype(norm.dtype)",
        OF_ARGUMENTS,
    ),
    Mutation(
        "every-group-has-the-threshold-of-the-first",
        POLICY,
        "jnp.broadcast_to(value, norm.shape)[i]",
        "jnp.broadcast_to(value, norm.shape)[0]",
        OF_STATES,
    ),
    Mutation(
        "number-of-groups-is-not-checked",
        POLICY,
        "        if norm.shape not in ((0,), (len(policies),)):",
        "        if norm.ndim != 1:",
        OF_STATES,
    ),
    # Decay.
    Mutation(
        "first-norm-meets-a-threshold-that-decayed",
        DECAY,
        "        power = jnp.exp(state.decays.astype(norm.dtype) * log_decay)\n",
        "        power = jnp.exp((state.decays + 1).astype(norm.dtype) * log_decay)\n",
        OF_DEFINITIONS,
    ),
    Mutation(
        "share-that-equals-the-clip-rate-decays",
        DECAY,
        "            due &= share > clip_rate\n",
        "            due &= share >= clip_rate\n",
        OF_DEFINITIONS,
    ),
    Mutation(
        "share-of-few-norms-is-taken-of-the-whole-window",
        DECAY,
        "/ jnp.minimum(\n                clipped.seen, window\n            )\n",
        "/ window\n",
        OF_DEFINITIONS,
    ),
    Mutation(
        "logarithm-of-a-decay-is-taken-in-float32",
        DECAY,
        "jnp.log(decay) if isinstance(decay, jax.Array) else math.log(decay)",
        "jnp.log(jnp.asarray(decay, jnp.float32))",
        OF_DEFINITIONS,
    ),
    # History.
    Mutation(
        "zero-norm-enters-the-history",
        HISTORY,
        "        present = (norm > 0) & (norm < jnp.inf)\n",
        "        present = norm < jnp.inf\n",
        OF_PUBLISHED,
    ),
    Mutation(
        "counts-of-the-history-overflow",
        HISTORY,
        "jnp.where(counts[-1] >= _FULL, counts // 2, counts)",
        "counts",
        OF_HISTORY,
    ),
    Mutation(
        "norm-of-a-rank-is-in-the-bin-below",
        HISTORY,
        "    below = jnp.sum(state.counts <= rank[None], axis=0, dtype=jnp.int32)\n",
        "    below = jnp.sum(state.counts < rank[None], axis=0, dtype=jnp.int32)\n",
        OF_HISTORY,
    ),
    # Relative.
    Mutation(
        "least-norm-of-parameters-is-added",
        RELATIVE,
        "ratio * jnp.maximum(param_norm(), eps)",
        "ratio * (param_norm() + eps)",
        OF_REFERENCES,
    ),
    Mutation(
        "warm-up-of-the-second-moment-is-one-step-too-long",
        RELATIVE,
        "(age >= warmup) & (root > 0)",
        "(age > warmup) & (root > 0)",
        OF_PUBLISHED,
    ),
    Mutation(
        "second-moment-begins-anew-one-step-late",
        RELATIVE,
        "        root = jnp.where(age == 0, 0, state.root).astype(norm.dtype)\n",
        "        root = jnp.where(age == 1, 0, state.root).astype(norm.dtype)\n",
        OF_PUBLISHED,
    ),
    Mutation(
        "unclipped-norm-enters-the-second-moment",
        RELATIVE,
        "        kept = jnp.minimum(norm, threshold)\n",
        "        kept = norm\n",
        OF_PUBLISHED,
    ),
    # Running numbers.
    Mutation(
        "exponential-mean-starts-with-the-last-norm",
        RUNNING,
        "jnp.where(state.seen == 0, norm, jnp.minimum(state.mean, norm))",
        "norm",
        OF_PUBLISHED,
    ),
    Mutation(
        "zero-norm-enters-the-exponential-mean",
        RUNNING,
        "        new = ExponentialMeanState(mean.astype(norm.dtype), incremented(state.seen))\n"
        "        return threshold, where_groups(norm > 0, new, state)\n",
        "        new = ExponentialMeanState(mean.astype(norm.dtype), incremented(state.seen))\n"
        "        return threshold, new\n",
        OF_PUBLISHED,
    ),
    Mutation(
        "warm-up-of-the-z-score-is-one-norm-too-long",
        RUNNING,
        "        starting = state.seen < warmup\n        threshold, new = followed",
        "        starting = state.seen <= warmup\n        threshold, new = followed",
        OF_PUBLISHED,
    ),
    Mutation(
        "deviation-is-taken-from-the-mean-before",
        RUNNING,
        "_averages.moved_root(state.deviation, kept - mean, decay)",
        "_averages.moved_root(state.deviation, kept - state.mean, decay)",
        OF_PUBLISHED,
    ),
    Mutation(
        "outliers-of-the-warm-up-enter",
        RUNNING,
        "    return held & (first <= outlier * _windows.median(first)[None])\n",
        "    return held\n",
        OF_PUBLISHED,
    ),
    Mutation(
        "sanitized-norm-has-no-score",
        RUNNING,
        "        threshold = jnp.where(jnp.isfinite(norm), threshold, highest)\n",
        "",
        OF_EDGES,
    ),
    Mutation(
        "norm-that-equals-the-quantile-counts-as-above",
        RUNNING,
        "rate * jnp.where(norm <= threshold, target - 1, target)",
        "rate * jnp.where(norm < threshold, target - 1, target)",
        OF_PUBLISHED,
    ),
    Mutation(
        "quantile-steps-the-wrong-way",
        RUNNING,
        "jnp.where(norm <= threshold, target - 1, target)",
        "jnp.where(norm <= threshold, 1 - target, -target)",
        OF_PUBLISHED,
    ),
    Mutation(
        "steps-of-the-quantile-drift",
        RUNNING,
        "target - 1, target) - state.lost\n",
        "target - 1, target)\n",
        OF_PUBLISHED,
    ),
    # Windows.
    Mutation(
        "warm-up-of-the-percentile-is-one-norm-too-long",
        WINDOW,
        "        usable = (state.history.seen >= warmup) & (value > 0)\n",
        "        usable = (state.history.seen > warmup) & (value > 0)\n",
        OF_DEFINITIONS,
    ),
    Mutation(
        "percentile-is-not-interpolated",
        WINDOW,
        "        value = low + fraction * (high - low)\n",
        "        value = low\n",
        OF_DEFINITIONS,
    ),
    Mutation(
        "current-norm-is-always-included",
        WINDOW,
        "read(new if include_current else state)",
        "read(new)",
        OF_PUBLISHED,
    ),
    Mutation(
        "infinite-norm-enters-the-sorted-window",
        WINDOW,
        "        new = where_groups(jnp.isfinite(norm), entered(norm, state), state)\n",
        "        new = entered(norm, state)\n",
        OF_DEFINITIONS,
    ),
    Mutation(
        "unclipped-norm-enters-the-moving-mean",
        WINDOW,
        "_windows.push(state.history, jnp.minimum(norm, threshold))",
        "_windows.push(state.history, norm)",
        OF_DEFINITIONS,
    ),
    Mutation(
        "equal-norms-have-no-least-deviation",
        WINDOW,
        "jnp.maximum(deviation, min_sigma)",
        "deviation",
        OF_RUNNING,
    ),
    Mutation(
        "median-has-another-rank",
        WINDOW,
        "        rank = 2 * (seen // 4)\n",
        "        rank = seen // 2\n",
        OF_PUBLISHED,
    ),
    Mutation(
        "early-medians-are-not-doubled",
        WINDOW,
        "        fresh = multiplier * jnp.where(whole, 1, 2) *",
        "        fresh = multiplier *",
        OF_PUBLISHED,
    ),
    Mutation(
        "sanitized-norm-makes-a-median-of-its-own",
        WINDOW,
        "        return jnp.where(norm < jnp.inf, threshold, state.threshold), new\n",
        "        return threshold, new\n",
        OF_EDGES,
    ),
    Mutation(
        "equal-norms-leave-the-sorted-window-together",
        WINDOWS,
        "jnp.where(ascending < old[None], ascending,",
        "jnp.where(ascending <= old[None], ascending,",
        OF_SEQUENCES,
    ),
    Mutation(
        "mean-of-few-norms-is-taken-of-the-whole-window",
        WINDOWS,
        "    held = jnp.clip(ring.seen, 1, ring.values.shape[0]).astype(ring.values.dtype)\n",
        "    held = jnp.asarray(ring.values.shape[0], ring.values.dtype)\n",
        OF_DEFINITIONS,
    ),
    Mutation(
        "sum-of-the-largest-norms-overflows",
        WINDOWS,
        "    share = jnp.where(jnp.max(ring.values, axis=0) > 1, 1 / held, 1)\n",
        "    share = jnp.ones_like(1 / held)\n",
        OF_SEQUENCES,
    ),
    Mutation(
        "median-of-an-even-number-is-the-lower-one",
        WINDOWS,
        "    places = last // 2, (last + 1) // 2\n",
        "    places = last // 2, last // 2\n",
        OF_RUNNING,
    ),
    Mutation(
        "deviation-is-that-of-a-sample",
        WINDOWS,
        "    square = jnp.sum(rest**2, axis=0) / count\n",
        "    square = jnp.sum(rest**2, axis=0) / jnp.maximum(count - 1, 1)\n",
        OF_PUBLISHED,
    ),
    # Around others.
    Mutation(
        "warm-up-of-a-threshold-is-one-step-too-long",
        WRAP,
        "jnp.asarray(step) < steps",
        "jnp.asarray(step) <= steps",
        OF_PUBLISHED,
    ),
    Mutation(
        "infinite-threshold-times-zero-is-nan",
        WRAP,
        "    free = threshold == jnp.inf\n",
        "    free = jnp.zeros_like(threshold, bool)\n",
        OF_EDGES,
    ),
    Mutation(
        "restart-needs-one-norm-more",
        WRAP,
        "        due = run >= patience\n",
        "        due = run > patience\n",
        OF_PUBLISHED,
    ),
    Mutation(
        "restart-forgets-how-far-is-far",
        WRAP,
        "        far = norm / ratio > threshold\n",
        "        far = norm > threshold\n",
        OF_PUBLISHED,
    ),
    Mutation(
        "restart-begins-with-norms-of-an-earlier-run",
        WRAP,
        "where_groups(far & ~due, candidate, fresh)",
        "where_groups(far & ~due, candidate, state.candidate)",
        OF_PUBLISHED,
    ),
    Mutation(
        "zero-norm-ends-a-run",
        WRAP,
        "where_groups(norm > 0, new, state._replace(policy=main))",
        "new",
        OF_RUNNING,
    ),
]
