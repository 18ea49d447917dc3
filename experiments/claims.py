"""Claims of the literature that can be tried on this scale."""

from collections.abc import Callable
from dataclasses import dataclass

from experiments import judges, plan
from experiments.answers import Answer
from experiments.config import Study
from experiments.errors import UserError
from experiments.results import Runs


@dataclass(frozen=True)
class Claim:
    """A claim and how it is tried.

    Attributes:
        name: what tables and addresses call it.
        says: the claim.
        source: authors, title, year and link.
        study: the runs that decide.
        differs: how these runs differ from those of the source.
        decides: when it holds, and when in part; `surely` means by more than chance, p < 0.05.
        judge: from the runs of the study, all of them, to an answer.
    """

    name: str
    says: str
    source: str
    study: Study
    differs: str
    decides: str
    judge: Callable[[Runs], Answer]

    def answer(self, runs: Runs) -> Answer | None:
        """What the runs of a table that were made for this claim say, if none is missing."""
        own = runs.where(part=self.name, stage="grid")
        asked = {(group.task, group.variant, group.method) for group in plan.groups(self.study)}
        there = set(own.distinct("task", "variant", "method"))
        return self.judge(own) if asked <= there else None


def find(name: str) -> Claim:
    """The claim of this name.

    Raises:
        UserError: there is none.
    """
    for claim in ALL:
        if claim.name == name:
            return claim
    raise UserError(f"unknown claim {name}; there are {', '.join(claim.name for claim in ALL)}")


_PASCANU = (
    "Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, ICML 2013, "
    "https://arxiv.org/abs/1211.5063"
)
ALL = (
    Claim(
        "clipped_gd",
        "Where the curvature grows with the gradient, gradient descent needs a number of "
        "iterations that grows with the gradient at the start; clipped gradient descent does not.",
        "Zhang, He, Sra, Jadbabaie, Why gradient clipping accelerates training: a theoretical "
        "justification for adaptivity, ICLR 2020, https://arxiv.org/abs/1905.11881",
        Study(("clipped_gd",), ("none", "global_norm"), seeds=5, tune=True),
        "The paper proves bounds over a whole class of functions; here both descend one function "
        "of that class, each with the best of several learning rates and thresholds.",
        "Iterations grow like a power of the start's gradient. Holds if that power is at least 0.5 "
        "without clipping and at most a quarter of it with clipping; in part if at most a half.",
        judges.clipped_gd,
    ),
    Claim(
        "memory",
        "The longer the sequences, the more clipping decides whether a recurrent net learns the "
        "temporal order of two symbols.",
        f"{_PASCANU}, Figure 7",
        Study(
            tuple(
                f"temporal_order/length {variant}"
                for variant in ("20", "30", "50", "20, omega", "20, cotangent")
            ),
            ("none", "global_norm"),
            seeds=10,
        ),
        "Far fewer updates (the paper allows 5 million) and shorter sequences; both sides have "
        "the most successful of the same learning rates, where the paper has one.",
        "Holds if surely more seeds learn with clipping at the longest sequences, by a larger gap "
        "than at the shortest, and nowhere fewer; in part if surely more do at some length. Seeds "
        "are paired, by the exact sign test.",
        judges.memory,
    ),
    Claim(
        "autoclip",
        "Of the percentiles of all norms so far, 1 or 10 is the best threshold and 100, which is "
        "off, the worst.",
        "Seetharaman, Wichern, Pardo, Le Roux, AutoClip: adaptive gradient clipping for source "
        "separation networks, MLSP 2020, https://arxiv.org/abs/2007.14469, Table 1",
        Study(
            ("characters/lstm", "chorales/tanh"),
            ("autoclip",),
            seeds=5,
            tune=True,
            values=(0.0, 1.0, 10.0, 25.0, 50.0, 90.0, 100.0),
        ),
        "The paper separates voices with four bidirectional LSTM layers and one learning rate of "
        "Adam; here small nets predict characters and chords, each percentile at its best "
        "learning rate.",
        "Holds if on both tasks 1 or 10 has the best median and 100 the worst, and the best is "
        "surely better than 100; in part if some of that is so. Mann-Whitney test.",
        judges.autoclip,
    ),
    Claim(
        "zclip",
        "ZClip trains over a wider range of learning rates than a fixed threshold or none, and "
        "better at the highest.",
        "Kumar, Owen, Chowdhury, Güra, ZClip: adaptive spike mitigation for LLM pre-training, "
        "2025, https://arxiv.org/abs/2504.02507",
        Study(("characters/transformer",), ("none", "global_norm", "autoclip", "zclip"), seeds=5),
        "The paper trains a LLaMA of a billion parameters on 50 billion tokens; here a "
        "transformer of two layers predicts characters, with the default arguments.",
        "Holds if no seed fails over more decades with ZClip than with either, and if at the "
        "highest learning rate that trains with any method ZClip is surely better than both; in "
        "part if one of the two is so; not decided if no run fails at all and ZClip is not surely "
        "better. Mann-Whitney test.",
        judges.zclip,
    ),
    Claim(
        "adagc",
        "AdaGC leaves fewer spikes of the loss than clipping by the global norm, by value or by "
        "ZClip.",
        "Wang, Li, Chen, Zeng, Yang, Yu, Ma, Shen, AdaGC: enhancing LLM pretraining stability via "
        "adaptive gradient clipping, ICML 2026, https://arxiv.org/abs/2502.11034",
        Study(
            ("characters/transformer, bad batches",),
            ("global_norm", "value", "zclip", "adagc"),
            seeds=5,
        ),
        "The paper trains language models of billions of parameters, whose spikes come by "
        "themselves; here bad batches are put into the text of a small transformer. Each method "
        "is shown at its best learning rate.",
        "Holds if AdaGC surely has fewer spikes than each of the others; in part if than some; not "
        "decided if all have the same, seed by seed. Mann-Whitney test.",
        judges.adagc,
    ),
    Claim(
        "range",
        "Clipping widens the range of learning rates at which a recurrent net trains.",
        f"A rule of thumb, told since {_PASCANU}",
        Study(("chorales/tanh", "chorales/lstm"), ("none", "global_norm"), seeds=5, tune=True),
        "A rule of thumb has no grid to compare with. Here the widest range over several "
        "thresholds counts, which favours clipping.",
        "Holds if the range is wider on both tasks; in part if on one.",
        judges.learning_rates,
    ),
    Claim(
        "likelihood",
        "Recurrent nets that are trained with clipping predict Bach's chorales with 8.91 (tanh), "
        "8.43 (GRU) and 8.45 (LSTM) nats a step.",
        "Bai, Kolter, Koltun, An empirical evaluation of generic convolutional and recurrent "
        "networks for sequence modeling, 2018, https://arxiv.org/abs/1803.01271, Table 1",
        Study(
            tuple(f"chorales/reference {cell}" for cell in ("tanh", "gru", "lstm")),
            ("global_norm",),
            seeds=5,
        ),
        "The published arrays hold 229 / 76 / 77 chorales, these 221 / 72 / 76 of them, read anew "
        "from the scores and in their original keys. The published nets have about 300,000 "
        "parameters and were tuned by a grid search over optimizer, dropout, learning rate, "
        "clipping and forget bias; these have 128 units and one learning rate, no dropout, and "
        "are trained on transposed passages. Numbers can be compared in kind, not to the digit.",
        "Holds if all three medians are at most 5 % above the published scores and both gated nets "
        "surely ahead of tanh; in part if only the first is so.",
        judges.likelihood,
    ),
)
