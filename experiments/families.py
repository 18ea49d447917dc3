"""Families of methods with their colours, and where methods are published."""

from typing import NamedTuple


class Family(NamedTuple):
    """What methods have in common, and the colour of their marks on light and dark paper."""

    color: str
    hue: str
    meaning: str


FAMILIES = {
    "none": Family("#7d858c", "grey", "the gradient as it is"),
    "fixed": Family("#2f7fd0", "blue", "a threshold that is given"),
    "history": Family("#d1541c", "orange", "a threshold learned from the gradients so far"),
    "relative": Family("#12915f", "green", "a threshold relative to the parameters"),
    "direction": Family("#b0569f", "purple", "every gradient is rescaled, small ones too"),
    "wrapper": Family("#a67c00", "ochre", "something around a clipper or an optimizer"),
}
LINKS = {
    "Andrew et al. 2021": "https://arxiv.org/abs/1905.03871",
    "Brock et al. 2021": "https://arxiv.org/abs/2102.06171",
    "Bu et al. 2023": "https://arxiv.org/abs/2206.07136",
    "Elesedy and Hutter 2023": "https://arxiv.org/abs/2302.02971",
    "Huang et al. 2025": "https://arxiv.org/abs/2501.06842",
    "Huang et al. 2025 (Stable-SPAM)": "https://arxiv.org/abs/2502.17055",
    "Keras": "https://keras.io/api/optimizers/",
    "Kumar et al. 2025": "https://arxiv.org/abs/2504.02507",
    "Levanter": "https://github.com/stanford-crfm/levanter",
    "Mikolov 2012": "http://www.fit.vutbr.cz/~imikolov/rnnlm/thesis.pdf",
    "OLMo": "https://github.com/allenai/OLMo",
    "OLMo-core": "https://github.com/allenai/OLMo-core",
    "Pascanu et al. 2013": "https://arxiv.org/abs/1211.5063",
    "Seetharaman et al. 2020": "https://arxiv.org/abs/2007.14469",
    "Shazeer and Stern 2018": "https://arxiv.org/abs/1804.04235",
    "Tang et al. 2023": "https://arxiv.org/abs/2302.09178",
    "Tucat et al. 2025": "https://arxiv.org/abs/2404.08624",
    "Wang et al. 2026": "https://arxiv.org/abs/2502.11034",
    "Yao et al. 2024": "https://arxiv.org/abs/2310.11230",
    "Yukhimchuk et al. 2026": "https://arxiv.org/abs/2605.11838",
    "Zhang et al. 2020": "https://arxiv.org/abs/1905.11881",
}
