"""References as the docstrings write them: by the bare name of a class or function, or of a parameter."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

OWN = ("cryomamba_core", "cryomamba_backends", "cryomamba_server")


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the role of single backticks and the search for bare names."""
    app.add_role("own", PyXRefRole())
    app.connect("missing-reference", find_by_bare_name)
    app.connect("doctree-read", name_domain)
    app.connect("autodoc-process-docstring", keep_comment, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", join_names, priority=600)  # after it
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def name_domain(_: Sphinx, document: nodes.document) -> None:
    """Hand what single backticks hold to the Python domain."""
    for node in document.findall(pending_xref):
        if node["reftype"] == "own":
            node["refdomain"] = "py"
            node["reftype"] = "obj"
            node["own"] = True


_kept: dict[str, list[str]] = {}


def keep_comment(app: Sphinx, what: str, name: str, described: Any, options: Any, lines: list[str]) -> None:
    """Remember the comment above an attribute: napoleon takes what stands before its first colon for a type."""
    if what in {"attribute", "data"}:
        _kept[name] = list(lines)


def join_names(app: Sphinx, what: str, name: str, described: Any, options: Any, lines: list[str]) -> None:
    """Keep ``:ivar a, b:`` from being read as a name with a type."""
    lines[:] = _kept.pop(name, None) or [
        line.replace(", ", ",", line.partition(": ")[0].count(", ")) if line.startswith(":ivar ") else line
        for line in lines
    ]


def find_by_bare_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """Resolve a name of ours wherever it is documented; leave parameters and other people's names as text.

    Returning None makes Sphinx warn, so a misspelt name of ours is found.
    """
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"]).lstrip(".~")
    domain = env.domains.python_domain
    found = domain.find_obj(env, node.get("py:module"), node.get("py:class"), target, None, 1)
    if not found and "." in target and target.startswith(OWN):
        found = domain.find_obj(env, None, None, target.rpartition(".")[2], None, 1)
    if found:
        name, entry = found[0]
        assert app.builder is not None
        return make_refnode(app.builder, str(node["refdoc"]), entry.docname, entry.node_id, content, name)
    if node.get("own") and not _looks_like_a_class(target):
        return content
    if target.rpartition(".")[2] in EXTERNAL or ("." in target and not target.startswith(OWN)):
        return content
    return None


def _looks_like_a_class(target: str) -> bool:
    first = target.split(".")[0]
    return first[:1].isupper() and not first.isupper()


#: Names of other packages, and type variables, that annotations carry without their module.
EXTERNAL = frozenset({"Any", "NDArray", "Path", "S", "T", "click", "np", "numpy"})
