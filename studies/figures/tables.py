"""Tables that are numbered, captioned and carry their data."""

import html

import pandas as pd
import xarray as xr

from .. import measures


class Table:
    """
    A table with a caption and a name, numbered by the book and plain HTML elsewhere.

    Parameters
    ----------
    frame : pandas.DataFrame
        Text or numbers as they should read; the index becomes the first column.
    caption : str
    name : str
        For cross-references.
    """

    def __init__(self, frame: pd.DataFrame, caption: str, name: str):
        self.frame, self.caption, self.name = frame, caption, name

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        head = [self.frame.index.name or "", *map(str, self.frame.columns)]
        rows = [[str(index), *map(str, row)] for index, row in zip(self.frame.index, self.frame.to_numpy())]
        lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] + ["---:"] * len(self.frame.columns), *rows]]
        markdown = "\n".join([f"```{{table}} {self.caption}", f":name: {self.name}", "", *lines, "```"])
        plain = self.frame.to_html(classes="dataframe").replace(
            "<thead>", f"<caption>{html.escape(self.caption)}</caption><thead>", 1
        )
        return {"text/markdown": markdown, "text/html": plain, "text/plain": self.frame.to_string()}


def beyond_column(distances: xr.DataArray) -> tuple[str, float]:
    """Give the title of a table's column of tolerance Jaccard distances, and the tolerance that they are of."""
    tau = measures.usual_tolerance(distances)
    return f"beyond {tau:g}", tau
