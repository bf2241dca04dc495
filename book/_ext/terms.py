"""Link the first use of each term of the glossary on a page, where the page does not link it by itself."""

import posixpath
import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

NOT_IN = (
    nodes.reference, nodes.title, nodes.literal, nodes.literal_block, nodes.doctest_block, nodes.math, nodes.raw,
    nodes.caption, nodes.rubric, nodes.table, nodes.strong, nodes.term, addnodes.glossary, nodes.citation,
    addnodes.desc_signature,
)  # fmt: skip


def terms_of(app: Sphinx) -> dict[str, tuple[str, str]]:
    """Return the glossary's terms with their page and anchor."""
    known = app.env.get_domain("std").objects
    return {name: place for (kind, name), place in known.items() if kind == "term"}


def link_first_uses(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Make the first use of each term a link; a plural counts, what stands in headings, code and tables does not."""
    terms = terms_of(app)
    if app.builder.format != "html" or page in {place for place, _ in terms.values()} or not terms:
        return
    linked = {
        node["refuri"].partition("#")[2] for node in doctree.findall(nodes.reference) if "#" in node.get("refuri", "")
    }
    anchors = {name: anchor for name, (_, anchor) in terms.items()}
    left = {name.lower(): name for name, anchor in anchors.items() if anchor not in linked}
    for text in list(doctree.findall(nodes.Text)):
        if not left:
            return
        if any(isinstance(parent, NOT_IN) for parent in parents(text)):
            continue
        words = "|".join(re.escape(name) for name in sorted(left, key=len, reverse=True))
        parts, rest = [], str(text)
        while found := re.search(rf"(?<![\w-])({words})s?(?![\w-])", rest, re.IGNORECASE):
            name = left.get(found[1].lower())
            if name is None:  # linked in this very text a moment ago
                parts.append(nodes.Text(rest[: found.end()]))
            else:
                home, anchor = terms[name]
                uri = posixpath.relpath(app.builder.get_target_uri(home), posixpath.dirname(page)) + f"#{anchor}"
                link = nodes.reference("", found[0], refuri=uri, internal=True, classes=["first-use"])
                parts += [nodes.Text(rest[: found.start()]), link]
                left.pop(name.lower())
            rest = rest[found.end() :]
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(rest)])


def parents(node: nodes.Node):
    """Return the nodes around a node, the nearest first."""
    while node.parent is not None:
        node = node.parent
        yield node


def setup(app: Sphinx) -> dict:
    """Register all of the above."""
    app.connect("doctree-resolved", link_first_uses, priority=600)  # after the page's own references
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
