"""Makes the description for a package index of the README; all else is in pyproject.toml and setup.cfg."""

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent


def description(readme: str, project: dict[str, Any]) -> str:
    """Return the README with links that work elsewhere: into the repository, if its address is known, else none."""
    source = project.get("urls", {}).get("Source", "").rstrip("/")
    pages = f"{source}/blob/v{project['version']}" if source else ""
    return re.sub(
        r"\[([^\]]+)\]\((?!\w+://)([^)]+)\)",
        lambda link: f"[{link[1]}]({pages}/{link[2]})" if pages else link[1],
        re.sub(r"<!-- .*? -->\n", "", readme),
    )


if __name__ == "__main__":
    from setuptools import setup  # only a build has it

    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = description((ROOT / "README.md").read_text(), metadata)
    setup(long_description=text, long_description_content_type="text/markdown")
