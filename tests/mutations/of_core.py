"""What all clippers go through, made wrong: the one equation and the checks of arguments."""

from mutation import Mutation

CORE, VALIDATE = "clipax/_core.py", "clipax/_validate.py"
OF_ARGUMENTS = ("tests/api/test_arguments.py",)
OF_DEFINITIONS = ("tests/thresholds/test_definitions.py",)
OF_PEER_CASES = ("tests/methods/test_peer_cases.py",)
OF_EDGES = ("tests/methods/test_edges.py",)
OF_METRICS = ("tests/observe/test_metrics.py",)

OF_THE_CORE = [
    # The one equation.
    Mutation(
        "norm-that-is-not-finite-enters-the-state",
        CORE,
        "        new = where_groups(jnp.isfinite(norm), new, old)\n",
        "",
        OF_DEFINITIONS,
    ),
    Mutation(
        "negative-threshold-turns-the-gradient",
        CORE,
        "threshold = jnp.maximum(jnp.asarray(threshold).astype(norm.dtype), 0)",
        "threshold = jnp.asarray(threshold).astype(norm.dtype)",
        ("tests/api/test_threshold_arguments.py",),
    ),
    Mutation(
        "steps-are-not-counted",
        CORE,
        "        return updates, ClipState(incremented(state.step), policy_state, metrics)\n",
        "        return updates, ClipState(state.step, policy_state, metrics)\n",
        OF_METRICS,
    ),
    Mutation(
        "sanitized-gradient-is-not-measured-again",
        CORE,
        "            clean = measure.norms(updates)\n",
        "",
        OF_PEER_CASES,
    ),
    Mutation(
        "argument-of-the-user-replaces-the-step",
        CORE,
        "**{**given.extra_args, **own}",
        "**{**own, **given.extra_args}",
        ("tests/laws/test_transforms.py",),
    ),
    Mutation(
        "gradient-of-another-tree-is-not-refused",
        CORE,
        "    for norm, old in zip(arrays, olds, strict=True):\n        _check_groups(norm, old)\n",
        "",
        OF_ARGUMENTS,
    ),
    Mutation(
        "state-of-a-policy-is-checked-at-its-first-axes",
        CORE,
        "jnp.shape(leaf)[jnp.ndim(leaf) - norm.ndim :] != norm.shape",
        "jnp.shape(leaf)[: norm.ndim] != norm.shape",
        OF_EDGES,
    ),
    Mutation(
        "rule-that-cannot-be-hashed-is-not-refused",
        CORE,
        "    if not isinstance(rule, Hashable):\n",
        "    if rule is None:\n",
        OF_EDGES,
    ),
    # Checks.
    Mutation(
        "number-that-is-nan-is-accepted",
        VALIDATE,
        "    if not inside:\n        interval",
        "    if not inside and given == given:\n        interval",
        OF_ARGUMENTS,
    ),
    Mutation(
        "truth-value-counts-as-a-number",
        VALIDATE,
        "    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):\n",
        "    if not isinstance(value, numbers.Real):\n",
        OF_ARGUMENTS,
    ),
    Mutation(
        "open-end-of-an-interval-is-closed",
        VALIDATE,
        "(given < high if below else given <= high)",
        "given <= high",
        OF_ARGUMENTS,
    ),
    Mutation(
        "count-of-zero-is-accepted",
        VALIDATE,
        "    if value < 1:\n",
        "    if value < 0:\n",
        OF_ARGUMENTS,
    ),
    Mutation(
        "warm-up-as-long-as-the-period-is-accepted",
        VALIDATE,
        "and value >= most:",
        "and value > most:",
        OF_ARGUMENTS,
    ),
    Mutation(
        "empty-name-is-accepted",
        VALIDATE,
        '    if name == "":\n',
        "    if name is False:\n",
        OF_ARGUMENTS,
    ),
    Mutation(
        "axis-that-is-named-twice-counts-twice",
        VALIDATE,
        "    return tuple(dict.fromkeys(names))\n",
        "    return names\n",
        OF_ARGUMENTS,
    ),
    Mutation(
        "error-tells-the-name-each-time-that-it-is-raised",
        VALIDATE,
        '        if name is not None and note not in getattr(error, "__notes__", ()):\n',
        "        if name is not None:\n",
        OF_ARGUMENTS,
    ),
]
