"""Write the scripts of the explorer, the verdicts and the lessons: their data, and the programs that draw them."""

import base64
import json
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.builders import Builder
from sphinx.util.parallel import ParallelTasks, SerialTasks, parallel_available

SHARED = ("geometry.js", "drawing.js")
COURSE = ("quantization", "boundary", "displacement", "junctions", "ruler", "evidence")
LESSONS = [f"book/course/{name}" for name in COURSE]
SLIDES = "book/course/slides"  # has the pictures of all lessons
RUNS = "explorer/evidence.js"  # what the last lesson judges
VERDICTS = "book/verdicts"
SCRIPTS = {"book/explorer": (*SHARED, "explorer.js"), VERDICTS: (*SHARED, "judging.js", "verdicts.js")}
SCRIPTS |= {page: (*SHARED, "lessons.js") for page in LESSONS}
SCRIPTS |= {"book/course/evidence": (RUNS, *SHARED, "lessons.js"), SLIDES: (RUNS, *SHARED, "lessons.js", "slides.js")}
FOLDER = Path("_static", "explorer")
JUDGED = ("D1", "D2", "D3", "D4", "D5")


def write_scripts(app: Sphinx, builder: Builder) -> None:
    """Write networks and multiverses, beside Sphinx where it may: while it resolves references, a core has no work."""
    if builder.format != "html":
        return
    tasks = ParallelTasks(2) if app.parallel > 1 and parallel_available else SerialTasks()
    tasks.add_task(write_networks, app)
    tasks.add_task(write_multiverses, app)
    app.connect("build-finished", lambda app, error: tasks.join())


def write_networks(app: Sphinx) -> None:
    """Write one script a network: digits, trained here and now, and those that are kept in data/explorer."""
    from bqcore._store import load_dataset, save_bytes
    from studies import explorer

    networks = [explorer.digits_network(), *map(load_dataset, sorted(Path(app.srcdir).glob("data/explorer/*.nc")))]
    for found in networks:
        save_bytes(explorer.script(found), Path(app.outdir, FOLDER, f"{found.attrs['name']}.js"))


def write_runs(app: Sphinx, error: Exception | None) -> None:
    """Write what the last lesson judges, once all pages are there: one that found it would name its digest, too."""
    if error is None and app.builder.format == "html":
        from bqcore._store import save_bytes

        save_bytes(runs_script(), Path(app.outdir, "_static", RUNS))


def runs_script() -> bytes:
    """Return the values behind claims about digits at fixed bits, by ruler, seed and bit-width, as a script."""
    import scipy

    from studies.claims import load_claims
    from studies.published import load_published

    claims = {claim["id"]: claim for claim in load_claims()[1] if claim["id"] in JUDGED}
    runs = load_published(claims["D2"]["from"])
    bits = [b for b in runs.bits.values.tolist() if b != 32]
    rulers = sorted(runs.nodes.values.tolist())
    out, packed = [], {}
    for claim in (claims[name] for name in JUDGED):
        measure = claim["select"]["measure"]
        where = {key: value for key, value in claim["select"].items() if key not in ("measure", "bits", "nodes")}
        values = runs[measure].sel(where).sel(bits=bits).transpose("seed", "bits", ...)
        grids = [values.sel(nodes=n) for n in rulers] if "nodes" in values.dims else [values]
        packed[measure] = [base64.b64encode(one.values.tobytes()).decode() for one in grids]
        row = {key: claim[key] for key in ("id", "short", "reported")}
        out.append(row | {"bits": claim["select"]["bits"], "measure": measure, "share": measure != "displacement"})
    # Student's t, 97.5 %, for 2 runs and up to those from which on the interval is that of ranks.
    quantiles = [0.0, 0.0, *scipy.stats.t.isf(0.025, range(1, 38)).tolist()]
    found = {"claims": out, "values": packed, "bits": bits, "rulers": rulers}
    found |= {"seeds": runs.sizes["seed"], "t": quantiles}
    return f"window.bqRuns = {json.dumps(found)};\n".encode()


def write_multiverses(app: Sphinx) -> None:
    """Write one script a data set: what the page of verdicts judges."""
    from bqcore._store import save_bytes
    from studies import alternatives, claims
    from studies.figures.multiverse import AXES

    stated = claims.load_claims()
    for dataset in alternatives.SETS:
        written = alternatives.script(dataset, AXES, *stated)
        save_bytes(written, Path(app.outdir, "_static", "verdicts", f"{dataset}.js"))


def add_scripts(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Load the scripts on the pages that use them and on no other."""
    for name in SCRIPTS.get(page, ()):
        app.add_js_file(name, loading_method="defer")
    if page in SCRIPTS:
        app.add_css_file("explorer.css")
    if page == VERDICTS:
        app.add_css_file("verdicts.css")
    if page == SLIDES:
        app.add_css_file("slides.css")


def setup(app: Sphinx) -> dict:
    """Register all of the above."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # bqcore, also where it is not installed
    app.connect("html-page-context", add_scripts)
    app.connect("write-started", write_scripts)
    app.connect("build-finished", write_runs)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
