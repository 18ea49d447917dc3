"""Prints the lower ends of the run-time dependencies in pyproject.toml as pip constraints."""

import pathlib
import re
import tomllib

pyproject = pathlib.Path(__file__).parents[1] / "pyproject.toml"
for requirement in tomllib.loads(pyproject.read_text())["project"]["dependencies"]:
    declared = re.fullmatch(r"([\w.-]+)\s*>=\s*([\w.]+)", requirement)
    if declared is None:
        raise SystemExit(f"{requirement!r} in pyproject.toml does not read 'name>=version'")
    print(f"{declared[1]}=={declared[2]}")
