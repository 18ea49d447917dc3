"""What every method does to the same recorded norms: calm, a spike, a higher level, zeros."""

import functools
import pathlib
from typing import Any, NamedTuple

import altair as alt
import jax
import jax.numpy as jnp
import numpy as np
import optax
import vl_convert

import clipax
from experiments import charts, clippers
from extension import writing

_NORMS = pathlib.Path(__file__).parents[1] / "norms.csv"
# Each with arguments that fit these norms, whose usual size is 0.4, and their 400 updates.
CALLS = {
    "global_norm": "clipax.global_norm(0.6)",
    "per_layer": "clipax.per_layer(0.6)",
    "per_leaf": "clipax.per_leaf(0.6)",
    "per_group": "clipax.per_group(0.6, lambda path: 'all')",
    "value": "clipax.value(0.6)",
    "block_rms": "clipax.block_rms(0.6)",
    "decaying": "clipax.decaying(1.5, 0.99, floor=0.3)",
    "adaptive": "clipax.adaptive(window=100, warmup=20, initial=1.0)",
    "moving_average": "clipax.moving_average(initial=1.0)",
    "autoclip": "clipax.autoclip(90.0)",
    "median": "clipax.median(window=50)",
    "history_sigma": "clipax.history_sigma(window=64, warmup=16)",
    "zclip": "clipax.zclip(max_norm=None)",
    "quantile": "clipax.quantile(0.9)",
    "adagc": "clipax.adagc(warmup=20, restart=25)",
    "olmo": "clipax.olmo()",
    "agc": "clipax.agc(0.6)",
    "clippy": "clipax.clippy(0.6)",
    "spam": "clipax.spam(4.0)",
    "stable_spam": "clipax.stable_spam()",
    "spectral": "clipax.spectral(0.6)",
    "normalize": "clipax.normalize(0.6)",
    "auto_s": "clipax.auto_s(0.6)",
    "smooth": "clipax.smooth(0.6)",
    "delta_clip": "clipax.delta_clip(0.6, delta=0.2)",
    "skip_spikes": "clipax.skip_spikes(optax.identity(), warmup=20)",
    "error_feedback": "clipax.error_feedback(clipax.global_norm(0.6))",
}
WITHOUT = {  # nothing to draw: they look, work on an optimizer, or inside a model
    "clip_cotangent",
    "momentum_reset",
    "monitor",
    "per_example",
    "suggest_threshold",
}
_SIZES = {"large": (640, 240), "small": (240, 110)}


class Drawn(NamedTuple):
    """File names of the pictures of a method, by theme."""

    large: dict[str, str]
    small: dict[str, str]


def caption(name: str) -> str:
    """What is seen."""
    return (
        f"`{CALLS[name]}` on a recorded run. Grey: the norm of the gradient before, with a spike "
        "at update 150, four times the level from 250 on, and zeros at 350. Coloured: the norm "
        "that it has afterwards. Dashed: the threshold, where there is one."
    )


def draw(folder: pathlib.Path, name: str) -> Drawn:
    """Draw a method into a folder, in both sizes and themes."""
    folder.mkdir(exist_ok=True)
    found: dict[str, dict[str, str]] = {size: {} for size in _SIZES}
    for size in _SIZES:
        for theme in charts.THEMES:
            path = folder / f"{name}-{size}-{theme}.svg"
            spec = charts.spec(_chart(name, size)) | {"config": charts.theme(theme)}
            writing.put(path, vl_convert.vegalite_to_svg(spec))
            found[size][theme] = path.name
    return Drawn(**found)


@functools.cache
def series() -> np.ndarray:
    """The recorded norms."""
    return np.loadtxt(_NORMS)


@functools.cache
def outcome(name: str) -> dict[str, np.ndarray]:
    """Norms before and after, and thresholds, at each update."""
    clipper = eval(CALLS[name], {"clipax": clipax, "optax": optax})
    gradient = {"layer": {"weight": jnp.ones((1, 1))}}  # one group, whatever a group is

    def step(state: Any, norm: jax.Array) -> Any:
        scaled = jax.tree.map(lambda x: norm * x, gradient)
        clipped, state = clipper.update(scaled, state, gradient)
        metrics = clipax.metrics(state)
        threshold = [metrics[key] for key in metrics if key.split("/")[-1] == "threshold"]
        return state, (clipped["layer"]["weight"][0, 0], threshold[0] if threshold else jnp.nan)

    norms = jnp.asarray(series(), jnp.float32)
    _, (after, thresholds) = jax.lax.scan(step, clipper.init(gradient), norms)
    return {"before": series(), "after": np.asarray(after), "threshold": np.asarray(thresholds)}


def _chart(name: str, size: str) -> alt.LayerChart:
    width, height = _SIZES[size]
    curves = {key: np.where(curve > 0, curve, np.nan) for key, curve in outcome(name).items()}
    base = alt.Chart(charts.rows({"update": np.arange(len(series())), **curves})).encode(
        x=alt.X(
            "update:Q",
            title="update" if size == "large" else None,
            axis=alt.Axis(grid=False, tickCount=4),
        )
    )
    color = clippers.LEGEND[name].color
    y = functools.partial(charts.logarithmic, (0.1, 12.0), "norm" if size == "large" else "")
    lines = [
        base.mark_line(style=charts.BEHIND, strokeWidth=1, clip=True).encode(y=y("before")),
        base.mark_line(color=color, strokeWidth=1.6, clip=True).encode(y=y("after")),
        base.mark_line(color=color, strokeWidth=1.2, strokeDash=[4, 3], clip=True).encode(
            y=y("threshold")
        ),
    ]
    return alt.LayerChart(layer=lines, width=width, height=height)
