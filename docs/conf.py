"""How the site is built: `python -m sphinx -W --keep-going -b html docs docs/build/html`."""

import pathlib
import sys

import clipax

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # where `extension` is

project = "clipax"
author = "The clipax developers"
project_copyright = author
version = release = clipax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "extension",
]
exclude_patterns = ["build"]

# Pages are Markdown, and docstrings write code between single backticks.
default_role = "code"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_merge_streams = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 72
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Deviations", "notes_style")]

html_theme = "furo"
html_title = "clipax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_domain_indices = False
html_show_sphinx = False
html_show_search_summary = False  # would fetch pages, which a browser refuses for files
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
