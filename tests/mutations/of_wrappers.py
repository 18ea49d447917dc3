"""Wrong wrappers, metrics and advice."""

from mutation import Mutation

COTANGENT, FEEDBACK = "clipax/_cotangent.py", "clipax/_error_feedback.py"
MONITOR, OBSERVE, STATE = "clipax/_monitor.py", "clipax/_observe.py", "clipax/_state.py"
PER_EXAMPLE, SKIP_SPIKES = "clipax/_per_example.py", "clipax/_skip_spikes.py"
STATELESS, SUGGEST, WRAPPERS = "clipax/_stateless.py", "clipax/_suggest.py", "clipax/_wrappers.py"
OF_COTANGENT = ("tests/wrappers/test_cotangent.py",)
OF_FEEDBACK = ("tests/wrappers/test_error_feedback.py",)
OF_METRICS = ("tests/observe/test_metrics.py",)
OF_MONITOR = ("tests/observe/test_monitor.py",)
OF_PER_EXAMPLE = ("tests/wrappers/test_per_example.py",)
OF_RESET = ("tests/wrappers/test_momentum_reset.py",)
OF_SPIKES = ("tests/wrappers/test_skip_spikes.py",)
OF_SUGGEST = ("tests/observe/test_suggest.py",)

OF_WRAPPERS = [
    # Backward passes.
    Mutation(
        "cotangent-passes-unclipped",
        COTANGENT,
        "    return clip(cotangent, max_norm), jnp.zeros_like(max_norm)\n",
        "    return cotangent, jnp.zeros_like(max_norm)\n",
        OF_COTANGENT,
    ),
    Mutation(
        "value-itself-is-clipped-where-nothing-is-differentiated",
        COTANGENT,
        "    del clip, max_norm\n    return x\n",
        "    return clip(x, max_norm)\n",
        OF_COTANGENT,
    ),
    Mutation(
        "clipper-with-some-state-is-taken-for-one-without",
        STATELESS,
        "    if any(kept):\n",
        "    if all(kept):\n",
        OF_COTANGENT,
    ),
    # What is cut off comes back.
    Mutation(
        "what-was-cut-off-does-not-decay",
        FEEDBACK,
        "decay * error).astype(old.dtype)",
        "error).astype(old.dtype)",
        OF_FEEDBACK,
    ),
    Mutation(
        "what-was-cut-off-is-kept-in-sixteen-bits",
        FEEDBACK,
        "    return widened(jnp.asarray(leaf))\n",
        "    return jnp.asarray(leaf)\n",
        OF_FEEDBACK,
    ),
    Mutation(
        "what-became-zero-for-a-nan-comes-back",
        FEEDBACK,
        "            stays = ~jnp.isfinite(error) | (lost & (update == 0) & (x != 0))\n",
        "            stays = ~jnp.isfinite(error)\n",
        OF_FEEDBACK,
    ),
    Mutation(
        "clipper-sees-the-gradient-without-what-was-cut-off",
        FEEDBACK,
        "inner.update(whole, state.inner, params, **extra_args)",
        "inner.update(updates, state.inner, params, **extra_args)",
        OF_FEEDBACK,
    ),
    # Examples.
    Mutation(
        "mean-counts-examples-that-are-masked",
        PER_EXAMPLE,
        "jnp.maximum(jnp.sum(weights), 1)",
        "jnp.asarray(size)",
        OF_PER_EXAMPLE,
    ),
    Mutation(
        "masked-example-of-nan-spoils-the-mean",
        PER_EXAMPLE,
        "        return jnp.where(weight, widened(x), 0)\n",
        "        return weight * widened(x)\n",
        OF_PER_EXAMPLE,
    ),
    Mutation(
        "batch-without-examples-is-divided-by-zero",
        PER_EXAMPLE,
        "jnp.maximum(jnp.sum(weights), 1).astype(x.dtype)",
        "jnp.sum(weights).astype(x.dtype)",
        OF_PER_EXAMPLE,
    ),
    Mutation(
        "first-example-behind-the-microbatches-is-lost",
        PER_EXAMPLE,
        "lambda x: x[full * count :], rows)",
        "lambda x: x[full * count + 1 :], rows)",
        OF_PER_EXAMPLE,
    ),
    Mutation(
        "gradient-of-examples-is-wider-than-its-parameters",
        PER_EXAMPLE,
        "lambda g, p: g.astype(jnp.result_type(p))",
        "lambda g, p: g",
        OF_PER_EXAMPLE,
    ),
    Mutation(
        "examples-do-not-know-their-parameters",
        PER_EXAMPLE,
        "clip(gradient, params))",
        "clip(gradient))",
        OF_PER_EXAMPLE,
    ),
    # Spikes.
    Mutation(
        "spike-itself-enters-the-window",
        SKIP_SPIKES,
        "_windows.push(old, jnp.minimum(values[kind], thresholds[kind]))",
        "_windows.push(old, values[kind])",
        OF_SPIKES,
    ),
    Mutation(
        "value-that-is-not-finite-enters-the-window",
        SKIP_SPIKES,
        "jax.tree.map(lambda a, b: jnp.where(finite, a, b), chosen, old)",
        "chosen",
        OF_SPIKES,
    ),
    Mutation(
        "step-that-is-not-finite-is-taken",
        SKIP_SPIKES,
        "    skipped = ~finite | (spike & ~restart) | excessive\n",
        "    skipped = (spike & ~restart) | excessive\n",
        OF_SPIKES,
    ),
    Mutation(
        "equal-values-have-no-least-deviation",
        SKIP_SPIKES,
        "sigma * jnp.maximum(deviation, _FLAT * root)",
        "sigma * deviation",
        OF_SPIKES,
    ),
    Mutation(
        "warm-up-of-the-spikes-is-one-value-too-long",
        SKIP_SPIKES,
        "(history.seen >= warmup) & (root > 0)",
        "(history.seen > warmup) & (root > 0)",
        OF_SPIKES,
    ),
    Mutation(
        "level-is-accepted-one-spike-late",
        SKIP_SPIKES,
        "(spikes.consecutive >= max_consecutive)",
        "(spikes.consecutive > max_consecutive)",
        OF_SPIKES,
    ),
    Mutation(
        "both-must-have-a-spike",
        SKIP_SPIKES,
        "    spike = jnp.any(jnp.stack(",
        "    spike = jnp.all(jnp.stack(",
        OF_SPIKES,
    ),
    Mutation(
        "nan-is-not-above-the-largest-norm",
        SKIP_SPIKES,
        'excessive = ~(values["norm"] <= max_norm)',
        'excessive = values["norm"] > max_norm',
        OF_SPIKES,
    ),
    Mutation(
        "loss-goes-before-value",
        SKIP_SPIKES,
        'extra_args.get("value", extra_args.get("loss"))',
        'extra_args.get("loss", extra_args.get("value"))',
        OF_SPIKES,
    ),
    Mutation(
        "skip-spikes-does-not-pass-its-axis-on",
        SKIP_SPIKES,
        "measures.per_tree(axis_name=axis_name)",
        "measures.per_tree()",
        ("tests/api/test_arguments.py",),
    ),
    # Moments.
    Mutation(
        "moments-are-forgotten-one-step-late",
        WRAPPERS,
        "lax.cond(step % every == 0,",
        "lax.cond(state.step % every == 0,",
        OF_RESET,
    ),
    Mutation(
        "clippers-forget-with-the-moments",
        WRAPPERS,
        "jax.tree.map(_fresh_moments, fresh, old, is_leaf=_is_clipper)",
        "jax.tree.map(_fresh_moments, fresh, old)",
        OF_RESET,
    ),
    Mutation(
        "counters-begin-anew-with-the-moments",
        WRAPPERS,
        "    keep = _is_clipper(old) or not is_measured(old)\n",
        "    keep = _is_clipper(old)\n",
        OF_RESET,
    ),
    Mutation(
        "updates-grow-back-one-step-early",
        WRAPPERS,
        "jnp.float32(warmup + 1)",
        "jnp.float32(warmup)",
        OF_RESET,
    ),
    Mutation(
        "first-updates-are-small-without-a-reset",
        WRAPPERS,
        "    return jnp.where((step >= every) & (since < warmup), share, 1)\n",
        "    return jnp.where(since < warmup, share, 1)\n",
        OF_RESET,
    ),
    Mutation(
        "updates-after-a-reset-are-float32",
        WRAPPERS,
        "(u.astype(wide) * factor.astype(wide)).astype(u.dtype)",
        "u.astype(wide) * factor.astype(wide)",
        OF_RESET,
    ),
    # Norms that are kept.
    Mutation(
        "mean-of-the-monitor-counts-what-is-not-finite",
        MONITOR,
        "    count = (incremented(old.steps) - old.nonfinite).astype(norm.dtype)\n",
        "    count = incremented(old.steps).astype(norm.dtype)\n",
        OF_MONITOR,
    ),
    Mutation(
        "steps-of-the-monitor-are-counted-from-one",
        MONITOR,
        "jnp.where(old.first_nonfinite < 0, old.steps, old.first_nonfinite)",
        "jnp.where(old.first_nonfinite < 0, incremented(old.steps), old.first_nonfinite)",
        OF_MONITOR,
    ),
    Mutation(
        "norms-of-the-monitor-are-not-sorted-as-their-names",
        MONITOR,
        "            norm = norm[np.argsort(names)]\n",
        "            norm = norm[np.argsort(known)]\n",
        OF_MONITOR,
    ),
    Mutation(
        "mean-of-the-monitor-overflows",
        MONITOR,
        "old.mean + (entered / count - old.mean / count)",
        "(old.mean * (count - 1) + entered) / count",
        OF_MONITOR,
    ),
    Mutation(
        "numbers-of-groups-do-not-sort",
        MONITOR,
        '    return [f"{i:0{digits}}" for i in range(count)]\n',
        '    return [f"{i}" for i in range(count)]\n',
        OF_MONITOR,
    ),
    # Metrics.
    Mutation(
        "name-of-a-single-clipper-is-left-out",
        OBSERVE,
        "state is clippers[0] and _name_of_clipper(state) is None",
        "state is clippers[0]",
        OF_METRICS,
    ),
    Mutation(
        "clip-rate-before-the-first-step-is-nan",
        OBSERVE,
        "clipped_steps / jnp.maximum(steps, 1)",
        "clipped_steps / steps",
        OF_METRICS,
    ),
    Mutation(
        "clippers-in-fields-of-a-state-hide-each-other",
        OBSERVE,
        "    for level in range(2):\n",
        "    for level in range(1):\n",
        OF_METRICS,
    ),
    Mutation(
        "metrics-change-with-the-state",
        OBSERVE,
        "= jnp.array(value)\n",
        "= value\n",
        OF_METRICS,
    ),
    Mutation(
        "threshold-is-the-smallest-of-all",
        STATE,
        "threshold=_smallest(at_largest)",
        "threshold=_smallest(thresholds)",
        OF_METRICS,
    ),
    Mutation(
        "norm-is-the-smallest-of-all",
        STATE,
        "jnp.where(kind == _NAN, jnp.nan, _over_all(jnp.max, norms))",
        "jnp.where(kind == _NAN, jnp.nan, _over_all(jnp.min, norms))",
        OF_METRICS,
    ),
    Mutation(
        "factor-is-the-largest-of-all",
        STATE,
        "    least = _over_all(jnp.min, [",
        "    least = _over_all(jnp.max, [",
        OF_METRICS,
    ),
    Mutation(
        "factor-of-one-counts-as-clipped",
        STATE,
        "[f < 1 for f in factors]",
        "[f <= 1 for f in factors]",
        OF_METRICS,
    ),
    Mutation(
        "step-with-several-clipped-groups-counts-for-each",
        STATE,
        "counted(old.clipped_steps, clipped > 0)",
        "old.clipped_steps + clipped",
        OF_METRICS,
    ),
    Mutation(
        "infinite-norm-is-not-counted",
        STATE,
        "counted(old.nonfinite, kind > 0)",
        "counted(old.nonfinite, kind == _NAN)",
        OF_METRICS,
    ),
    # Advice.
    Mutation(
        "first-norms-of-a-level-are-spikes",
        SUGGEST,
        "np.maximum(usual[:-_AROUND], medians[1:])",
        "np.minimum(usual[:-_AROUND], medians[1:])",
        OF_SUGGEST,
    ),
    Mutation(
        "level-changes-many-times-at-one-place",
        SUGGEST,
        "all(abs(i + _AROUND - other) > _AROUND for other in found)",
        "all(abs(i + _AROUND - other) > 0 for other in found)",
        OF_SUGGEST,
    ),
    Mutation(
        "norms-before-the-last-change-count",
        SUGGEST,
        "level = kept[calm][changes[-1] if changes else 0 :]",
        "level = kept[calm][changes[0] if changes else 0 :]",
        OF_SUGGEST,
    ),
    Mutation(
        "heavy-tails-are-a-change-of-the-level",
        SUGGEST,
        "max(np.log(_CHANGE), _SURE * by_chance)",
        "np.log(_CHANGE)",
        OF_SUGGEST,
    ),
    Mutation(
        "explosion-counts-as-part-of-the-run",
        SUGGEST,
        "    kept = recorded[:end]\n",
        "    kept = recorded\n",
        OF_SUGGEST,
    ),
    Mutation(
        "zeros-are-calm-norms",
        SUGGEST,
        "    calm = ~spiked & (kept > 0)\n",
        "    calm = ~spiked\n",
        OF_SUGGEST,
    ),
]
