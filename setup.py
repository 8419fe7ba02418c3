"""Makes the description for a package index of the README; all else is in pyproject.toml and setup.cfg."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def description() -> str:
    """Return the README with links that work elsewhere: into the repository, if its address is known, else none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    source = project.get("urls", {}).get("Source", "").rstrip("/")
    pages = f"{source}/blob/v{project['version']}" if source else ""
    text = re.sub(r"<!-- .*? -->\n", "", (ROOT / "README.md").read_text())
    return re.sub(
        r"\[([^\]]+)\]\((?!\w+://)([^)]+)\)",
        lambda link: f"[{link[1]}]({pages}/{link[2]})" if pages else link[1],
        text,
    )


setup(long_description=description(), long_description_content_type="text/markdown")
