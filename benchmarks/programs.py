"""Programs that are compiled for parameters which need not be there, and what is read from them."""

import functools
import math
import re
from collections import Counter
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

COLLECTIVES = (
    *("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"),
    *("ragged-all-to-all", "collective-broadcast"),
)


def spread(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Arrays that are only described, each spread over all devices along one of its axes."""
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, "devices"))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def compiled_step(optimizer: optax.GradientTransformation, params: Any) -> jax.stages.Compiled:
    """The state lies where the parameters of the same shape do, and all else on every device."""
    shardings = {x.shape: x.sharding for x in jax.tree.leaves(params)}
    everywhere = NamedSharding(next(iter(shardings.values())).mesh, PartitionSpec())

    def placed(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = shardings.get(x.shape, everywhere)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    state = jax.tree.map(placed, jax.eval_shape(optimizer.init, params))

    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    stepped = jax.jit(step, donate_argnums=(0, 1), keep_unused=True)
    return stepped.lower(params, state, params).compile()


class Instruction(NamedTuple):
    """One line of a program: `%name = shape operation(%operands), attributes`."""

    name: str
    shape: str
    operation: str
    operands: list[str]
    attributes: str

    def called(self, *attributes: str) -> list[str]:
        """The computations that stand after some attributes."""
        found = re.findall(rf"\b(?:{'|'.join(attributes)})=(\{{[^}}]*\}}|%\S+)", self.attributes)
        return [name for text in found for name in re.findall(r"%([\w.\-]+)", text)]


_HEAD = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(([^)]*)\)(.*)$")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")

_NO_ACCESS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"}
_ONE_EACH = {
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "negate", "abs", "sign"),
    *("compare", "select", "and", "or", "xor", "not", "is-finite", "clamp", "convert"),
    *("bitcast-convert", "shift-left", "shift-right-arithmetic", "shift-right-logical"),
}
_NOT_COUNTED = {  # what moves numbers, calls computations, or is no addition or multiplication
    *("broadcast", "reshape", "transpose", "slice", "dynamic-slice", "dynamic-update-slice"),
    *("concatenate", "pad", "gather", "scatter", "reverse", "sort", "copy", "optimization-barrier"),
    *("fusion", "call", "while", "conditional", "custom-call", "async", "partition-id"),
    *("replica-id", "dot", "convolution", "sqrt", "rsqrt", "cbrt", "exponential", "log", "power"),
    *("exponential-minus-one", "log-plus-one", "tanh", "erf", "floor", "ceil", "remainder"),
    *("round-nearest-even", "round-nearest-afz", "clz", "popcnt", "rng-bit-generator"),
    *("sine", "cosine", "atan2", "stochastic-convert", "real", "imag", "complex"),
    *("add-dependency", "domain", "infeed", "outfeed", "send", "recv"),
}


def costs(program: jax.stages.Compiled) -> tuple[Counter, Counter]:
    """The usual costs of a compiled program, and those of the fallback, by kind."""
    text = program.as_text()
    assert text is not None, "this backend shows no programs"
    computations: dict[str, list[Instruction]] = {}
    entry, body = "", []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            body = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif (found := _LINE.match(line)) is None:
            if computations and line.startswith("  "):
                raise ValueError(f"this line of a program is not understood: {line}")
        else:
            name, shape, operation, operands, attributes = found.groups()
            body.append(
                Instruction(
                    name, shape, operation, re.findall(r"%([\w.\-]+)", operands), attributes
                )
            )

    @functools.cache
    def of(name: str) -> tuple[Counter, Counter]:
        usual, fallback = Counter(), Counter()
        known = {each.name: each for each in computations[name]}
        for each in computations[name]:
            if each.operation == "conditional":
                named = each.called("branch_computations")
                named = named or each.called("false_computation") + each.called("true_computation")
                branches = [of(branch) for branch in named]
                if "_jitted_norms" in each.attributes:
                    common, rare = branches
                    fallback += rare[0] + rare[1]
                    branches = [common]
                once, rarely = max(branches, key=lambda pair: pair[0]["bytes"])
                usual, fallback = usual + once, fallback + rarely
                continue
            usual["bytes"] += accessed(each, known)
            usual["flops"] += flops(each, known)
            kind = each.operation.removesuffix("-start")
            usual[kind] += 1
            if kind in COLLECTIVES:
                usual["collective bytes"] += sum(size(known[name].shape) for name in each.operands)
            applied = ["to_apply"] * (each.operation == "call")
            for inner in each.called("calls", "body", "condition", *applied):
                once, rarely = of(inner)
                if each.operation == "fusion":  # its inner arrays lie nowhere
                    once = Counter(once)
                    once["bytes"] = 0
                usual, fallback = usual + once, fallback + rarely
        return usual, fallback

    kept = ("bytes", "flops", "collective bytes", *COLLECTIVES)
    usual, fallback = (Counter({k: c[k] for k in kept}) for c in of(entry))
    return usual, fallback


def accessed(each: Instruction, known: dict[str, Instruction]) -> int:
    """The bytes in main memory that an instruction reads and writes, those of a copy at its end."""
    if each.operation in _NO_ACCESS or each.operation.endswith("-start"):
        return 0
    if "ConcatBitcast" in each.attributes or each.called("body") or each.operation == "call":
        return 0
    operands = each.operands
    if each.operation.endswith("-done"):
        operands = known[operands[0]].operands
    read = sum(in_main_memory(known[name].shape) for name in operands)
    if each.operation == "slice-done":
        read = min(read, size(each.shape))
    return read + in_main_memory(each.shape)


def flops(each: Instruction, known: dict[str, Instruction]) -> int:
    """One for each entry that is added, multiplied, compared or chosen; none for roots and powers.

    Raises:
        ValueError: for an operation that is not known here.
    """
    if each.operation in _ONE_EACH:
        return entries(each.shape)
    if each.operation == "reduce":
        return entries(known[each.operands[0]].shape) - entries(each.shape)
    if each.operation == "reduce-window":
        (window,) = re.findall(r"window=\{size=([\dx]+)", each.attributes)
        return entries(each.shape) * (math.prod(map(int, window.split("x"))) - 1)
    kind = re.sub("-(start|done|update)$", "", each.operation)
    if kind not in {*_NO_ACCESS, *_NOT_COUNTED, *COLLECTIVES}:
        raise ValueError(f"`{each.operation}` is not known; say what it costs in {__name__}")
    return 0


def in_main_memory(shape: str) -> int:
    """The bytes of the arrays in a shape whose layout names no other memory."""
    return sum(size(x[0]) for x in _ARRAY.finditer(shape) if "S(" not in (x[3] or ""))


def size(shape: str) -> int:
    return sum(entries(x[0]) * width(x[1]) for x in _ARRAY.finditer(shape))


def entries(shape: str) -> int:
    return sum(int(np.prod([int(n) for n in x[2].split(",") if n])) for x in _ARRAY.finditer(shape))


def width(dtype: str) -> int:
    bits = re.search(r"\d+", dtype)
    return max(int(bits[0]) // 8, 1) if bits else 1
