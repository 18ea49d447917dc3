"""What the numbers of a leaderboard do not say."""

LIMITS = (
    "The interquartile mean leaves out the best and the worst quarter of all runs: a method that "
    "fails on one task in nine does not show it there. The ranks and the scores by task do.",
    "Models here have thousands of parameters and train for hundreds of updates. Methods made for "
    "large language models, or for runs of many thousands of steps, may do better there.",
    "Warm-ups and windows are shorter than the defaults of the library, to fit short runs.",
    "Each method has one argument tuned, over four values. With more, some would do better.",
    "The learning rates are wide on purpose. A user who already has a good one will see smaller "
    "differences.",
    "Times were taken one method after the other, whatever else the machine did: a tenth more or "
    "less says nothing.",
    "Intervals are those of other seeds, not of other tasks, and each verdict is by itself: of "
    "twenty methods that are as good as none, one is expected to look better or worse by chance.",
)
