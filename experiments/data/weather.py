"""Four years of daily weather in Seattle, from the package `vega_datasets`."""

import numpy as np

from experiments import data

COLUMNS = ("precipitation", "temp_max", "temp_min", "wind")


def load() -> np.ndarray:
    """The days of 2012 to 2015 in order, float32 `[1461, 4]`: a column for each of `COLUMNS`.

    Raises:
        UserError: the package that holds them is not installed.
    """
    with data.package("vega_datasets", "_data/seattle-weather.csv").open() as file:
        header = file.readline().strip().split(",")
        places = [header.index(name) for name in COLUMNS]
        return np.loadtxt(file, np.float32, delimiter=",", usecols=places)
