/*
The page where a reader measures otherwise: choices on the left, claims on the right. What is judged is in judging.js; data
are scripts that set window.bqMultiverses, one for each data set, so that the page works as a file. The address keeps what
differs from the baseline.
*/
"use strict";
(() => {
  const [J, D] = [window.bqJudging, window.bqDrawing];
  const root = document.getElementById("verdicts");
  const folder = new URL("verdicts/", document.currentScript.src);
  const NAMES = {
    digits: "digits", mnist: "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar-10": "CIFAR-10 subset",
    "full-cifar-10": "full CIFAR-10",
  };
  const GROUPS = {
    Network: ["trained", "width", "epochs", "scale", "split"],
    Quantizer: ["step", "scheme", "granularity"],
    Ruler: ["nodes", "thickness", "mask", "plane", "extent"],
    "Boundary band": ["share", "nearness"],
    "Choice of bits": ["drop", "rule", "path"],
    "Local boundary shift": ["place", "gradient", "pair"],
    Junctions: ["transition J2", "transition J3", "transition J4", "grid", "count", "summary", "kind"],
    "Optimized rounding": ["method", "eta", "optimization_steps", "examples"],
  };
  const MOST_RADIOS = 5; // a choice of more values is a list
  const WORDS = { holds: "reproduced", inconclusive: "inconclusive", fails: "not-reproduced", "not measured": "not-attempted" };
  const [WIDTH, HEIGHT, FLOOR] = [360, 66, 50]; // of a picture, and where its axis is
  const SLICE = 12; // milliseconds of counting between two looks at what the reader does

  const opened = {}; // data sets that were unpacked, each with its counts
  let data = null;
  let spec = null;
  let before = {}; // the verdicts before the last choice

  // ---- words -------------------------------------------------------------------------------------------------------

  const plain = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(3))).replace("-", "−") : "undefined");
  const counted = (value) => value.toLocaleString("en");
  const escaped = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const nameOf = (axis) => data.axes[axis].title;
  const valueOf = (axis, i) => String(data.axes[axis].values[i]);
  /* A value in words; the address has it as it is. */
  function written(axis, i) {
    const value = valueOf(axis, i);
    const [model, width, epochs] = value.split(" ");
    if (axis === "trained") return `${model}, width ${width}, ${epochs} epochs`;
    if (axis === "thickness") return `${value} ${value === "1" ? "cell" : "cells"}`;
    return axis === "share" ? `${100 * value} %` : value;
  }
  const changed = () => Object.keys(data.axes).filter((axis) => spec[axis] !== data.baseline[axis]);
  const listed = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);
  const wordOf = (found) => (!found ? "not measured" : found.holds ? "holds" : found.inside ? "inconclusive" : "fails");
  const stated = ({ reported, kind, together }) => {
    if (together) return "";
    return typeof reported === "number" ? plain(reported) : kind === "no gain" ? "no gain" : "above 0";
  };

  // ---- the page ----------------------------------------------------------------------------------------------------

  const sets = root.dataset.sets.split(" ");
  root.innerHTML = `
    <div class="bq-verdict-head">
      <fieldset><legend>Data set</legend>${sets.map((name) =>
        `<label><input type="radio" name="bq-set" value="${name}"> ${NAMES[name]}</label>`).join("")}</fieldset>
      <p id="bq-verdict-summary" class="bq-summary" role="status" aria-live="polite">Loading …</p>
    </div>
    <div class="bq-tally"><button type="button" id="bq-baseline">Back to the baseline</button>
      <span id="bq-tally" role="group" aria-label="Verdicts: each leads to its claim"></span></div>
    <div class="bq-verdict-stage">
      <div id="bq-choices" class="bq-choices"></div>
      <div>
        <p class="bq-verdict-legend">
          <span><i class="bq-dot-ours"></i>our runs, a dot for each network</span>
          <span><i class="bq-bar-ours"></i>95 % interval</span>
          <span><i class="bq-bar-baseline"></i>the baseline's</span>
          <span><i class="bq-line-paper"></i>the paper</span>
          <span><i class="bq-box-all"></i>all specifications</span>
          <span><i class="bq-box-held"></i>those in which the claim holds</span>
          <span><i class="bq-mark">◇</i>the baseline's choice</span>
          <span><small>7</small>claims that hold if this choice alone is made</span>
        </p>
        <ul id="bq-claims" class="bq-claims" role="list"></ul>
      </div>
    </div>`;
  const $ = (id) => document.getElementById(id);

  function choiceOf(axis) {
    const { title, values, baseline } = data.axes[axis];
    if (values.length > MOST_RADIOS) {
      const options = values.map((_, i) => `<option value="${i}"></option>`).join("");
      return `<label class="bq-list">${title} <select name="${axis}">${options}</select></label>`;
    }
    const radios = values.map((_, i) => `<label><input type="radio" name="${axis}" value="${i}"> ${escaped(written(axis, i))}${
      i === baseline ? '<span class="bq-mark" title="the baseline">◇<span class="visually-hidden"> the baseline</span></span>' : ""
    }<small data-axis="${axis}" data-value="${i}"></small></label>`);
    return `<fieldset><legend>${title}</legend>${radios.join("")}</fieldset>`;
  }

  /* Write the choices and the claims of a data set anew. */
  function build() {
    const wide = window.matchMedia("(min-width: 900px)").matches;
    $("bq-choices").innerHTML = Object.entries(GROUPS).map(([title, axes], i) => {
      const there = axes.filter((axis) => axis in data.axes);
      if (!there.length) return "";
      return `<details${wide || i === 2 ? " open" : ""}><summary>${title}</summary>${there.map(choiceOf).join("")}</details>`;
    }).join("");
    $("bq-tally").innerHTML = Object.keys(data.claims).map((id) => `<button type="button" data-to="${id}">${id}</button>`).join("");
    $("bq-claims").innerHTML = Object.values(data.claims).map(({ id, short, together }) => `
      <li data-claim="${id}" tabindex="-1"><p><strong>${id}</strong> ${escaped(short)}</p>
        ${together ? "" : `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" aria-hidden="true" focusable="false"></svg>`}
        <div class="bq-found"></div><div class="bq-count">counting …</div></li>`).join("");
  }

  const nodeOf = (id, part) => $("bq-claims").querySelector(`[data-claim="${id}"] ${part}`);

  // ---- pictures ----------------------------------------------------------------------------------------------------

  /* The range that a claim's picture shows: of most estimates, of the baseline's networks, of the paper. */
  function frameOf(claim) {
    const found = [];
    const all = claim.axes.reduce((product, axis) => product * data.axes[axis].values.length, 1);
    for (let i = 0; i < 400; i++) { // the same places of the cross each time
      let rest = Math.floor((((i * 0.618034) % 1) + i / 400) % 1 * all);
      const one = { ...data.baseline };
      for (const axis of claim.axes) {
        const size = data.axes[axis].values.length;
        one[axis] = rest % size;
        rest = Math.floor(rest / size);
      }
      const { estimate } = claim.judge(one) || {};
      if (Number.isFinite(estimate)) found.push(estimate);
    }
    found.sort((a, b) => a - b);
    const usual = claim.judge(data.baseline);
    const ends = usual ? [usual.low, usual.high, ...usual.values] : [];
    const most = [found[Math.floor(0.02 * found.length)], found[Math.floor(0.98 * found.length)]];
    const inside = [...most, ...ends, typeof claim.reported === "number" ? claim.reported : 0].filter(Number.isFinite);
    const [low, high] = [Math.min(...inside), Math.max(...inside)];
    const room = 0.04 * (high - low || 1);
    return { low: low - room, high: high + room };
  }

  function ticksOf({ low, high }) {
    const rough = (high - low) / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
    const first = Math.ceil(low / step);
    return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
  }

  function draw(claim, found, usual) {
    const frame = (claim.frame = claim.frame || frameOf(claim));
    const x = (value) => 8 + ((WIDTH - 16) * (value - frame.low)) / (frame.high - frame.low);
    const kept = (value) => Math.min(Math.max(x(value), 3), WIDTH - 3);
    const line = (kind, x1, y1, x2, y2) => `<line class="${kind}" x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}"/>`;
    const out = [bars(claim, frame), line("bq-axis", 3, FLOOR, WIDTH - 3, FLOOR)];
    for (const tick of ticksOf(frame)) {
      out.push(line("bq-axis", x(tick), FLOOR, x(tick), FLOOR + 3));
      out.push(`<text x="${x(tick)}" y="${FLOOR + 13}" text-anchor="middle">${plain(tick)}</text>`);
    }
    if (typeof claim.reported === "number") out.push(line("bq-paper", x(claim.reported), 2, x(claim.reported), FLOOR));
    else { // a side of 0
      const [from, to] = claim.kind === "no gain" ? [3, x(0)] : [x(0), WIDTH - 3];
      out.push(`<rect class="bq-side" x="${from}" y="2" width="${to - from}" height="${FLOOR - 2}"/>`, line("bq-zero", x(0), 2, x(0), FLOOR));
    }
    if (usual && Number.isFinite(usual.estimate)) {
      out.push(line("bq-usual", kept(usual.low), 31, kept(usual.high), 31));
      out.push(`<path class="bq-usual" d="M${kept(usual.estimate)} 27l4 4l-4 4l-4 -4z"/>`);
    }
    if (found && Number.isFinite(found.estimate)) {
      out.push(line("bq-ours", kept(found.low), 17, kept(found.high), 17));
      out.push(`<circle class="bq-run" cx="${kept(found.estimate)}" cy="17" r="4"/>`);
      found.values.forEach((value, i) => {
        if (Number.isFinite(value)) out.push(`<circle class="bq-run" cx="${kept(value)}" cy="${5 + 4 * (i % 2)}" r="2.4"/>`);
      });
      const beyond = found.estimate > frame.high ? `${WIDTH - 2} 17l-7 -5v10z` : found.estimate < frame.low ? "2 17l7 -5v10z" : "";
      if (beyond) out.push(`<path class="bq-run" d="M${beyond}"/>`);
    }
    nodeOf(claim.id, "svg").innerHTML = out.join("");
  }

  /* All estimates, and above them in another colour those of specifications in which the claim holds. */
  function bars(claim, frame) {
    const all = data.counts[claim.id];
    if (!all || !all.of) return "";
    const BINS = 60;
    const binned = (values) => {
      const bins = new Float64Array(BINS);
      for (const value of values) {
        const i = Math.floor((BINS * (value - frame.low)) / (frame.high - frame.low));
        if (i >= 0 && i < BINS) bins[i]++;
      }
      return bins;
    };
    const [of, held] = [all.estimates, all.held].map(binned);
    const scale = (FLOOR - 14) / Math.sqrt(Math.max(...of)); // heights by the root, so that few are seen too
    const width = (WIDTH - 16) / BINS;
    const bar = (kind, count, i) => {
      const height = scale * Math.sqrt(count);
      return count ? `<rect class="${kind}" x="${8 + i * width}" y="${FLOOR - height}" width="${width}" height="${height}"/>` : "";
    };
    return [...of].map((count, i) => bar("bq-all", count, i) + bar("bq-held", held[i], i)).join("");
  }

  // ---- what is shown -----------------------------------------------------------------------------------------------

  function show() {
    for (const axis of Object.keys(data.axes)) {
      const list = root.querySelector(`select[name="${axis}"]`);
      if (list) list.value = spec[axis];
      else root.querySelector(`input[name="${axis}"][value="${spec[axis]}"]`).checked = true;
    }
    const now = {};
    for (const claim of Object.values(data.claims)) {
      const [found, usual] = [claim.judge(spec), claim.judge(data.baseline)];
      const [word, first] = [found, usual].map(wordOf);
      now[claim.id] = word;
      const chip = $("bq-tally").querySelector(`[data-to="${claim.id}"]`);
      chip.className = `verdict verdict-${WORDS[word]}`;
      chip.setAttribute("aria-label", `${claim.id}: ${word}`);
      if (!claim.together) draw(claim, found, usual);
      const numbers = found && !claim.together
        ? `ours <b>${plain(found.estimate)}</b> [${plain(found.low)}, ${plain(found.high)}], ` : "";
      nodeOf(claim.id, ".bq-found").innerHTML = `<span class="verdict verdict-${WORDS[word]}">${word}</span>
        <span>${numbers}${claim.together ? `all of ${listed(claim.together)} at once` : `the paper: <b>${stated(claim)}</b>`}${
  word === first ? "" : `; at the baseline: ${first}`}</span>`;
      tell(claim);
    }
    $("bq-verdict-summary").textContent = summary(now);
    hint(now);
    before = now;
    keep();
  }

  function summary(now) {
    const words = Object.values(now);
    const many = (word) => words.filter((one) => one === word).length;
    const one = { holds: "holds", inconclusive: "is inconclusive", fails: "fails", "not measured": "is not measured" };
    const more = { holds: "hold", inconclusive: "are inconclusive", fails: "fail", "not measured": "are not measured" };
    const counts = Object.keys(one).filter(many).map((word) => `${many(word)} ${(many(word) === 1 ? one : more)[word]}`);
    const axes = changed().map((axis) => `${nameOf(axis)}: ${written(axis, spec[axis])} (baseline ${written(axis, data.baseline[axis])})`);
    const moved = Object.keys(now).filter((id) => before[id] && before[id] !== now[id]).map((id) => `${id} ${now[id]}`);
    return `${NAMES[data.name]}: of ${words.length} claim${words.length === 1 ? "" : "s"}, ${listed(counts)}. ${
      axes.length ? `Measured otherwise than the baseline in ${axes.join("; ")}.` : "This is the baseline."}${
      moved.length ? ` Now ${listed(moved)}.` : ""}`;
  }

  /* Write at each choice how many claims hold if it alone is changed. */
  function hint(now) {
    const claims = Object.values(data.claims);
    for (const axis of Object.keys(data.axes)) {
      const { values, baseline } = data.axes[axis];
      const list = root.querySelector(`select[name="${axis}"]`);
      values.forEach((_, i) => {
        const one = { ...spec, [axis]: i };
        const many = claims.filter(({ id, axes, judge }) =>
          (axes.includes(axis) && i !== spec[axis] ? judge(one)?.holds : now[id] === "holds")).length;
        const words = `${many} ${many === 1 ? "holds" : "hold"}`;
        if (list) list.options[i].textContent = `${written(axis, i)}${i === baseline ? " ◇" : ""} · ${words}`;
        else root.querySelector(`small[data-axis="${axis}"][data-value="${i}"]`).innerHTML = words.replace(" ", " <i>") + "</i>";
      });
    }
  }

  /* Say in how many of all specifications a claim holds, and lead to the nearest one. */
  function tell({ id }) {
    const all = data.counts[id];
    const place = nodeOf(id, ".bq-count");
    if (!all) return;
    const share = all.of ? (100 * all.holds) / all.of : 0;
    const words = `holds in ${counted(all.holds)} of ${counted(all.of)} specifications (${share.toFixed(1)} %)`;
    const same = all.nearest && data.claims[id].axes.every((axis) => all.nearest[axis] === spec[axis]);
    const lead = all.nearest && !same
      ? ` <button type="button" data-nearest="${id}" aria-label="Show the nearest specification in which ${id} holds">${
        all.changes ? `nearest: ${all.changes} ${all.changes > 1 ? "choices" : "choice"} away` : "nearest: the baseline"}</button>` : "";
    place.innerHTML = `<span class="bq-share" style="--share: ${share}%"></span> <span>${words}</span>${lead}`;
  }

  /* Count all specifications of a data set, claim by claim, a little at a time. */
  async function countAll(mine) {
    let last = performance.now();
    const pause = async () => {
      if (performance.now() - last < SLICE) return false;
      await new Promise((done) => setTimeout(done));
      last = performance.now();
      return data !== mine; // the reader looks at another data set
    };
    for (const claim of Object.values(mine.claims)) {
      mine.counts[claim.id] = mine.counts[claim.id] || (await J.count(mine, claim.id, pause));
      if (data !== mine) return;
      if (!claim.together) draw(claim, claim.judge(spec), claim.judge(mine.baseline));
      tell(claim);
    }
    mine.counted = true;
  }

  // ---- the address -------------------------------------------------------------------------------------------------

  function keep() {
    const pairs = [["set", data.name], ...changed().map((axis) => [axis, valueOf(axis, spec[axis])])];
    const first = data.name === sets[0] && pairs.length === 1;
    if (first && !location.hash.startsWith("#set=")) return; // a plain address stays plain
    history.replaceState(null, "", `#${new URLSearchParams(pairs)}`);
  }

  /* Show what the address says; what it says of unknown choices is left out. */
  async function follow() {
    const said = new URLSearchParams(location.hash.slice(1));
    const name = sets.includes(said.get("set")) ? said.get("set") : data ? data.name : sets[0];
    if (!(await choose(name))) return;
    for (const [axis, value] of said) {
      const i = axis in data.axes ? data.axes[axis].values.map(String).indexOf(value) : -1;
      if (i >= 0) spec[axis] = i;
    }
    show();
  }

  /* Load a data set; false if another was chosen meanwhile or it is missing. */
  async function choose(name) {
    root.querySelector(`input[name="bq-set"][value="${name}"]`).checked = true;
    if (!opened[name]) {
      $("bq-verdict-summary").textContent = `Loading ${NAMES[name]} …`;
      if (!(await load(name).catch(D.unloaded))) {
        $("bq-verdict-summary").textContent = `The data of ${NAMES[name]} could not be loaded from ${new URL(`${name}.js`, folder)}.`;
        return false;
      }
    }
    if (root.querySelector('input[name="bq-set"]:checked').value !== name) return false;
    data = opened[name];
    spec = { ...data.baseline };
    before = {};
    build();
    countAll(data);
    return true;
  }

  async function load(name) {
    if (!(window.bqMultiverses || {})[name]) await D.loadScript(new URL(`${name}.js`, folder));
    const found = await J.open(name, window.bqMultiverses[name]);
    return (opened[name] = opened[name] || { ...found, counts: {} });
  }

  // ---- what the reader does ----------------------------------------------------------------------------------------

  function set(chosen) {
    spec = { ...spec, ...chosen };
    show();
  }

  root.addEventListener("change", async ({ target }) => {
    if (target.name === "bq-set") {
      if (await choose(target.value)) show();
    } else set({ [target.name]: Number(target.value) });
  });
  root.addEventListener("click", ({ target }) => {
    const { nearest: id, to } = target.dataset;
    if (target.id === "bq-baseline") set(data.baseline);
    else if (to) nodeOf(to, ".bq-found").parentElement.focus();
    else if (id) {
      set(data.counts[id].nearest);
      nodeOf(id, ".bq-found").parentElement.focus({ preventScroll: true }); // the button may be gone
    }
  });
  window.addEventListener("hashchange", () => location.hash.startsWith("#set=") && follow());
  root.style.setProperty("--bq-ours", D.FLOAT_COLOUR);
  root.style.setProperty("--bq-paper", D.QUANTIZED_COLOUR);
  follow();

  window.bqVerdicts = { set, current: () => ({ data, spec }) };
})();
