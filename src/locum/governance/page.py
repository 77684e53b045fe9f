"""The verifier as files that anybody can keep: one HTML page, and one Python file.

The page verifies a bundle in a browser, offline: its policy (CSP) allows its own script and style, by their hashes, and no connection.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import html
from importlib.resources import files

from locum.governance.verify import NOT_PROVED

_PARTS = ("verify_formats.py", "verify_checks.py", "verify.py")


def page() -> str:
    """The HTML page."""
    here = files("locum.governance").joinpath("verifier")
    text = {name: here.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "formats.js", "checks.js", "page.js")}
    script, style = "\n" + text["formats.js"] + text["checks.js"] + text["page.js"], "\n" + text["page.css"]
    listed = "".join(f"<li>{html.escape(line)}</li>" for line in NOT_PROVED)
    out = text["page.html"].replace("@SCRIPT_HASH@", _hash(script)).replace("@STYLE_HASH@", _hash(style)).replace("@NOT_PROVED@", listed)
    return out.replace("@STYLE@", style).replace("@SCRIPT@", script)


def script() -> str:
    """The Python verifier as one file: its parts one after another, without the lines that import one from another."""
    here, out = (
        files("locum.governance"),
        ['"""Verify an audit bundle of Locum, offline: `python verify.py bundle.zip`. It needs Python 3.11 and `cryptography`."""\n'],
    )
    out.append("from __future__ import annotations\n")
    for name in _PARTS:
        source = here.joinpath(name).read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("locum", "__future__"):
                lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)  # type: ignore[operator]
        out.append("\n".join(lines))
    return "\n".join(out) + "\n"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
