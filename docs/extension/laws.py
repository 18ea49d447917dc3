"""A law: what is promised, and the tests that hold the library to it."""

import ast
import functools
import pathlib

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

_TESTS = pathlib.Path(__file__).parents[2] / "tests"


class Law(SphinxDirective):
    """A promise, an empty line, and a line `file.py::test` for each test."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The promise, and the source of each test to unfold."""
        promise, _, tests = "\n".join(self.content).partition("\n\n")
        whole = nodes.container(classes=["law"])
        whole += self.parse_text_to_nodes(promise)
        for line in tests.split():
            whole += self._test(*line.split("::"))
        return [whole]

    def _test(self, file: str, test: str) -> list[nodes.Node]:
        try:
            code = source(_TESTS / file, test)
        except LookupError as error:
            raise self.error(str(error)) from error
        self.env.note_dependency(str(_TESTS / file))
        return [
            _html(f"<details><summary><code>{test}</code> <small>tests/{file}</small></summary>"),
            nodes.literal_block(code, code, language="python"),
            _html("</details>"),
        ]


def _html(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def source(path: pathlib.Path, test: str) -> str:
    """The source of a function with its decorators.

    Raises:
        LookupError: there is no such function.
    """
    found = _sources(path).get(test)
    if found is None:
        raise LookupError(f"there is no {test} in {path.name}")
    return found


@functools.cache
def _sources(path: pathlib.Path) -> dict[str, str]:
    if not path.exists():
        raise LookupError(f"there is no {path.name}")
    text = path.read_text()
    lines = text.splitlines()
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return {node.name: "\n".join(lines[_first(node) - 1 : node.end_lineno]) for node in functions}


def _first(node: ast.FunctionDef) -> int:
    return min([node.lineno, *(each.lineno for each in node.decorator_list)])
