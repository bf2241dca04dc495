/* Tables sort by the column whose heading is pressed: numbers by value, words by letter; once more turns it round. */
"use strict";
document.querySelectorAll(".bd-content table").forEach((table) => {
  const heads = table.tHead && table.tHead.rows.length === 1 ? [...table.tHead.rows[0].cells] : [];
  const body = table.tBodies[0];
  const live = table.closest(".bq-lesson, #explorer, .xr-wrap"); // these write or fold their rows themselves
  if (!heads.length || table.tBodies.length !== 1 || body.rows.length < 3 || live) return;

  /* The number that a cell begins with, such as 0.95 of "0.95 [0.86, 0.99]"; nothing of "D2". */
  const numberOf = (text) => {
    const found = text.replace(/−/g, "-").match(/^(-?\d*\.?\d+(?:e[+-]?\d+)?)/i);
    return found ? Number(found[1]) : NaN;
  };
  const sort = (column, turn) => {
    const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
    rows.forEach((entry) => (entry.number = numberOf(entry.text)));
    const numeric = rows.filter(({ number }) => !Number.isNaN(number)).length * 2 > rows.length;
    rows.sort((a, b) => {
      if (numeric && Number.isNaN(a.number) !== Number.isNaN(b.number)) return Number.isNaN(a.number) ? 1 : -1;
      return turn * (numeric ? a.number - b.number || 0 : a.text.localeCompare(b.text));
    });
    body.append(...rows.map(({ row }) => row));
  };

  heads.forEach((head, column) => {
    const text = head.textContent.trim();
    if (!text) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.title = "Sort by this column";
    const paragraph = head.querySelector("p"); // a button may hold words, not paragraphs
    button.append(...(paragraph || head).childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const turn = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
      sort(column, turn);
    });
  });
});

/* A figure of several panels is marked, for telephones: there it scrolls, so it has to take the keyboard's focus. */
document.querySelectorAll(".bd-content figure img").forEach((image) => {
  const figure = image.closest("figure");
  const mark = () => {
    image.classList.toggle("wide", image.naturalWidth > 800); // pixels at 130 an inch: wider than one panel
    if (figure.scrollWidth > figure.clientWidth) figure.tabIndex = 0;
    else figure.removeAttribute("tabindex");
  };
  if (image.complete) mark();
  image.addEventListener("load", mark);
  window.addEventListener("resize", mark);
});
