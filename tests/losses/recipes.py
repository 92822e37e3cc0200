"""The recipes of docs/losses.md."""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"


def recipes() -> dict[str, Any]:
    """What the page defines, as it stands there."""
    text = PAGE.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    names: dict[str, Any] = {}
    exec(compile(code, "docs/losses.md", "exec"), names)
    return names
