"""How the documentation is built: ``sphinx-build -W -n -b html docs build/docs``. Nothing is fetched from a network."""

from importlib.metadata import version as version_of

project = "dbtestcase"
author = "The dbtestcase authors"
copyright = author
version = release = version_of("dbtestcase")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"dbtestcase {release}"
html_show_sphinx = False

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# Names of other projects: their documentation is not fetched.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(sqlalchemy|flask|werkzeug|unittest|collections|contextlib|pathlib|typing|types|testing|threading)(\..*)?",
    ),
    (
        "py:.*",
        r"(os\.PathLike|SchemaLike|Isolation|PostgresOptions|BaseInstance|dbtestcase\.lifecycle\.isolation\.Test|dbtestcase\.frames\.Origin)",
    ),  # names of types only
    ("py:.*", r"(Engine|AsyncEngine|AsyncSession|Session|Connection|MetaData|Flask|FlaskClient|Path|TestResult|Any)"),
]
