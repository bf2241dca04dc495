"""Link the first use of each public name of bqcore on a page to its entry in the reference: in text, and in a block."""

import posixpath
import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from terms import parents

NOT_IN = (nodes.reference, nodes.title, nodes.caption, addnodes.desc)
IN_TEXT = re.compile(r"\b(\w+)\.(\w+)")
IN_BLOCK = re.compile(r'(<span class="n">(\w+)</span><span class="o">\.</span><span class="n">)(\w+)(?=</span>)')


def entries(app: Sphinx, page: str) -> dict[str, str]:
    """Return the addresses of the entries as seen from a page, by name; none for a page of the reference itself."""
    known = app.env.get_domain("py").objects
    found = {name.removeprefix("bqcore."): entry for name, entry in known.items() if re.fullmatch(r"bqcore\.\w+", name)}
    if app.builder.format != "html" or page in {entry.docname for entry in found.values()}:
        return {}
    here = posixpath.dirname(page)
    return {
        name: f"{posixpath.relpath(app.builder.get_target_uri(entry.docname), here)}#{entry.node_id}"
        for name, entry in found.items()
    }


def is_use(owner: str, name: str, left: dict[str, str]) -> bool:
    """Return whether owner.name is a public name that is not linked yet, by its short address or that of its module."""
    import bqcore

    return name in left and owner in ("bq", "bqcore", getattr(bqcore, name).__module__.rpartition(".")[2])


def link_in_text(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Make code in a sentence a link where it is the first there with a name."""
    left = entries(app, page)
    for literal in list(doctree.findall(nodes.literal)):
        if any(isinstance(parent, NOT_IN) for parent in parents(literal)):
            continue
        name = next((name for owner, name in IN_TEXT.findall(literal.astext()) if is_use(owner, name, left)), None)
        if name:
            link = nodes.reference("", "", refuri=left.pop(name), internal=True, classes=["first-use"])
            literal.replace_self(link)
            link += literal


def link_in_blocks(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Make the name itself a link where it is the first in a block of code, which is coloured only now."""
    left = entries(app, page)

    def linked(found: re.Match) -> str:
        before, owner, name = found.groups()
        if not is_use(owner, name, left):
            return found[0]
        return f'{before}<a class="first-use reference internal" href="{left.pop(name)}">{name}</a>'

    if left and "body" in context:
        context["body"] = IN_BLOCK.sub(linked, context["body"])


def setup(app: Sphinx) -> dict:
    """Register both."""
    app.connect("doctree-resolved", link_in_text, priority=600)  # after the page's own references
    app.connect("html-page-context", link_in_blocks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
