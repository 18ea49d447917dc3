"""What the numbers of a leaderboard do not say."""

LIMITS = (
    "The interquartile mean leaves out the best and the worst quarter of all runs: what a method "
    "loses on two tasks of nine does not show there. The ranks and the scores by task show it.",
    "Models here have thousands of parameters and train for hundreds of updates. Methods made for "
    "large language models, or for runs of many thousands of steps, may do better there.",
    "Given thresholds, and those that others start from, are multiples of a norm that was measured "
    "on a calm run of the task. Who does not know that norm has to find it first.",
    "Default arguments are those for short runs here: warm-ups and windows are shorter than in the "
    "library. `zclip` and `adagc` are tried as the library has them, with a restart after a long "
    "spike, which the papers do not have.",
    "Each method has one argument tuned, over four values, by two seeds. With more, some would do "
    "better.",
    "The learning rates are wide on purpose. A user who already has a good one will see smaller "
    "differences.",
    "Times were taken one method after the other, whatever else the machine did: a tenth more or "
    "less says nothing.",
    "Intervals are those of other seeds, not of other tasks, and each verdict is by itself: of "
    "twenty methods that are as good as none, one is expected to look better or worse by chance.",
)
