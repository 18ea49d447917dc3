"""Wrong groups, measures and matrices."""

from mutation import Mutation

GROUPS, MATRICES, MEASURES = "clipax/_groups.py", "clipax/_matrices.py", "clipax/measures.py"
SPECTRAL, TREES = "clipax/_spectral.py", "clipax/_trees.py"
OF_GROUPS = ("tests/numerics/test_groups.py",)
OF_STACKS = ("tests/numerics/test_stacked_layers.py",)
OF_SPECTRAL = ("tests/methods/test_spectral.py",)
OF_METRICS = ("tests/observe/test_metrics.py",)
OF_PEER_CASES = ("tests/methods/test_peer_cases.py",)
ON_DEVICES = ("tests/devices/eight/test_mapped.py",)

OF_MEASURES = [
    # Groups.
    Mutation(
        "label-that-is-not-among-the-names-is-not-told",
        GROUPS,
        "    if unknown:\n",
        "    if unknown and names is None:\n",
        OF_GROUPS,
    ),
    Mutation(
        "names-of-labels-do-not-give-the-order",
        GROUPS,
        "(usual if names is None else ((name, None) for name in names))",
        "(usual)",
        OF_GROUPS,
    ),
    Mutation(
        "slices-are-counted-along-the-last-axis",
        GROUPS,
        "np.shape(x)[0] if stack else None",
        "np.shape(x)[-1] if stack else None",
        OF_STACKS,
    ),
    Mutation(
        "numbers-of-slices-do-not-sort",
        GROUPS,
        '(name, f"{i:0{digits}}")',
        '(name, f"{i}")',
        OF_STACKS,
    ),
    Mutation(
        "unit-of-a-stack-spans-its-layers",
        GROUPS,
        "        return tuple(1 + a for a in unit_axes(shape[1:], axis))\n",
        "        return unit_axes(shape[1:], axis)\n",
        OF_STACKS,
    ),
    Mutation(
        "unit-of-a-convolution-spans-one-axis",
        GROUPS,
        "(0,) if rank < 4 else",
        "(0,) if rank <= 4 else",
        OF_GROUPS,
    ),
    Mutation(
        "axis-that-counts-from-the-end-is-taken-as-it-is",
        GROUPS,
        "sorted({a % rank for a in axes})",
        "sorted(set(axes))",
        OF_GROUPS,
    ),
    Mutation(
        "axis-that-no-leaf-has-is-not-refused",
        GROUPS,
        "    if any(not -rank <= a < rank for a in axes):\n",
        "    if any(a < -rank for a in axes):\n",
        OF_GROUPS,
    ),
    # Leaves.
    Mutation(
        "complex-leaves-have-no-norm",
        TREES,
        "    return jnp.issubdtype(dtype, jnp.inexact)\n",
        "    return jnp.issubdtype(dtype, jnp.floating)\n",
        ("tests/wrappers/test_cotangent.py",),
    ),
    Mutation(
        "attribute-called-value-is-always-a-box",
        TREES,
        "if path and _is_box(path[-1]) and leaves_below[path[:-1]] == 1:",
        "if path and _is_box(path[-1]):",
        OF_GROUPS,
    ),
    Mutation(
        "leaves-of-a-list-are-one-layer",
        TREES,
        "        return path if in_root_list else path[:-1]\n",
        "        return path[:-1]\n",
        OF_GROUPS,
    ),
    Mutation(
        "leaf-said-to-be-replicated-counts-for-each-device",
        TREES,
        "else not same)",
        "else True)",
        ON_DEVICES,
    ),
    Mutation(
        "counter-overflows",
        TREES,
        "    return jnp.asarray(optax.safe_increment(count))\n",
        "    return jnp.asarray(count + 1)\n",
        ("tests/thresholds/test_policy_states.py",),
    ),
    Mutation(
        "flag-that-is-no-boolean-counts-as-true",
        TREES,
        "        if not isinstance(flag, (bool, np.bool_)):\n",
        "        if flag is None:\n",
        ("tests/api/test_arguments.py",),
    ),
    Mutation(
        "dtypes-are-not-promoted-where-that-must-be-said",
        TREES,
        '    with jax.numpy_dtype_promotion("standard"):\n'
        "        return functools.reduce(jnp.promote_types, dtypes)\n",
        "    return functools.reduce(jnp.promote_types, dtypes)\n",
        ("tests/numerics/test_together.py",),
    ),
    Mutation(
        "tree-that-can-be-called-is-taken-for-a-function",
        TREES,
        "    if callable(value) and all(map(callable, jax.tree.leaves(value))):",
        "    if callable(value):",
        OF_STACKS,
    ),
    # Measures.
    Mutation(
        "root-of-the-mean-square-is-that-of-the-sum",
        MEASURES,
        "rms = Norm(2, mean=True)",
        "rms = Norm(2)",
        ("tests/methods/test_against_references.py",),
    ),
    Mutation(
        "tree-without-a-norm-is-measured",
        MEASURES,
        "        if not leaves:\n            return init(updates)\n",
        "",
        OF_PEER_CASES,
    ),
    Mutation(
        "entries-are-looked-at-for-the-metrics",
        MEASURES,
        "    )._replace(observed=False)\n",
        "    )\n",
        OF_METRICS,
    ),
    Mutation(
        "entries-of-sixteen-bits-are-measured-in-sixteen-bits",
        MEASURES,
        "[abs(_real(x).astype(_wide(x))) for x in leaves]",
        "[abs(_real(x)) for x in leaves]",
        ("tests/numerics/test_measured_norms.py",),
    ),
    Mutation(
        "axis-of-a-unit-is-not-passed-on",
        MEASURES,
        "unit_axes(jnp.shape(x), axis, stack=n is not None)",
        "unit_axes(jnp.shape(x), None, stack=n is not None)",
        OF_GROUPS,
    ),
    Mutation(
        "layers-are-not-told-of-their-stacks",
        MEASURES,
        "(layer_of_each_leaf, norm, axis_name, replicated, stacked=stacked)",
        "(layer_of_each_leaf, norm, axis_name, replicated)",
        OF_STACKS,
    ),
    # Matrices.
    Mutation(
        "singular-values-are-not-scaled-back",
        MATRICES,
        "    s = times_power(s, _exponent(x))\n",
        "",
        OF_SPECTRAL,
    ),
    Mutation(
        "gram-matrix-is-trusted-too-far",
        MATRICES,
        "_TRUSTED = 32.0",
        "_TRUSTED = 3200.0",
        OF_SPECTRAL,
    ),
    Mutation(
        "schatten-norm-is-of-too-low-an-order",
        MATRICES,
        "_SQUARINGS = 12",
        "_SQUARINGS = 6",
        OF_SPECTRAL,
    ),
    Mutation(
        "matrices-are-decomposed-together-on-cpus",
        MATRICES,
        'jax.default_backend() != "cpu"',
        'jax.default_backend() == "cpu"',
        OF_SPECTRAL,
    ),
    Mutation(
        "parts-of-the-slope-of-a-matrix-are-swapped",
        MATRICES,
        "symmetric * _hermitian(inner) + skew * _skew(inner)",
        "skew * _hermitian(inner) + symmetric * _skew(inner)",
        OF_SPECTRAL,
    ),
    Mutation(
        "square-matrix-is-turned-on-the-way-in-alone",
        MATRICES,
        "    return _adjoint(x) if x.shape[-2] < x.shape[-1] else x\n",
        "    return _adjoint(x) if x.shape[-2] <= x.shape[-1] else x\n",
        OF_SPECTRAL,
    ),
    Mutation(
        "adjoint-is-not-conjugated",
        MATRICES,
        "    return jnp.conj(jnp.swapaxes(x, -1, -2))\n",
        "    return jnp.swapaxes(x, -1, -2)\n",
        OF_SPECTRAL,
    ),
    Mutation(
        "matrix-within-its-threshold-is-rounded",
        SPECTRAL,
        "jnp.where(within, x, clipped)",
        "clipped",
        OF_SPECTRAL,
    ),
    Mutation(
        "entry-that-is-not-finite-spoils-the-whole-stack",
        SPECTRAL,
        "        finite = jnp.all(jnp.isfinite(x), axis=(-2, -1), keepdims=True)\n",
        "        finite = jnp.all(jnp.isfinite(x))\n",
        OF_SPECTRAL,
    ),
    Mutation(
        "single-column-is-decomposed",
        SPECTRAL,
        "len(inner) > 1 and min(inner[-2:]) > 1 and",
        "len(inner) > 1 and",
        OF_SPECTRAL,
    ),
    Mutation(
        "vector-of-a-stack-is-a-matrix",
        SPECTRAL,
        "            inner = shape if slices is None else shape[1:]\n",
        "            inner = shape\n",
        OF_STACKS,
    ),
]
