"""The site of docs/: `make docs` writes it to docs/_build/html. Nothing is fetched to read it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

project = "Weak supervision, reproduced"
author = "The founders of this repository"
extensions = [
    "myst_nb",  # Markdown and notebooks
    *(f"docs._ext.{name}" for name in ("parts", "mathml", "formulas", "flags")),
]
exclude_patterns = ["_build", "_ext"]
nitpicky = True  # a link to nothing is a warning, and `make docs` takes warnings for errors
highlight_language = "text"
smartquotes = False  # --flags stay as they are typed

myst_heading_anchors = 4
nb_execution_mode = "off"  # tests run the notebooks

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
