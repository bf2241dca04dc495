/*
The explorer: a slice of one network at any bit-width, drawn on a canvas. A small network is run here, from its float
weights; of a larger one the levels come as frames, made beforehand by studies.explorer. Everything measured here comes from
geometry.js. Data are scripts that set window.bqNetworks: the page works as a file and without a network.
*/
"use strict";
(() => {
  const [G, D] = [window.bqGeometry, window.bqDrawing];
  const { FLOAT_COLOUR, QUANTIZED_COLOUR, BOTH_COLOUR } = D;
  const root = document.getElementById("explorer");
  const LEVELS = [G.FLOAT, 8, 7, 6, 5, 4, 3, 2];
  const STEPS = 10; // positions of the slider from one level to the next
  const GRIDS = [51, 101, 201, 401]; // each one's nodes are among the next one's
  const NAMES = {
    digits: "digits", mnist: "MNIST", "fashion-mnist": "Fashion-MNIST", "mnist-cnn": "MNIST, CNN",
    "fashion-mnist-cnn": "Fashion-MNIST, CNN", "cifar-10-cnn": "CIFAR-10, CNN", "cifar-10-resnet": "CIFAR-10, ResNet",
  };
  const MOST_PICKS = 3;
  const KEYS = "On the picture: arrow keys go to the next test image in that direction";
  const folder = new URL("explorer/", document.currentScript.src);
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

  const state = {
    name: "", position: 5 * STEPS, nodes: 201, picks: [], selected: -1,
    show: { masks: true, junctions: true, changed: false, images: true },
  };
  const networks = {}; // what was loaded and worked out once
  let now = null; // the current level: its parameters, labels, logits and readings

  // ---- the page ----------------------------------------------------------------------------------------------------

  const levelName = (bits) => (bits === G.FLOAT ? "float" : `${bits} bits`);
  const radio = (name, value, text, checked) =>
    `<label><input type="radio" name="${name}" value="${value}"${checked ? " checked" : ""}> ${text}</label>`;
  const known = root.dataset.networks.split(" ");
  const networkChoice = known.map((n, i) => radio("bq-network", n, NAMES[n], i === 0)).join("");
  const gridChoice = (grids) => grids.map((n) => radio("bq-nodes", n, n, n === state.nodes)).join("");
  const ticks = LEVELS.map((bits, i) => {
    const text = bits === G.FLOAT ? "float" : bits;
    return `<button type="button" data-position="${i * STEPS}" aria-label="${levelName(bits)}">${text}</button>`;
  }).join("");
  const heading = (...names) => `<thead><tr>${names.map((name) =>
    `<th scope="col"${name === "here" ? ' class="bq-here"' : ""}>${name}</th>`).join("")}</tr></thead>`;
  root.innerHTML = `
    <div class="bq-controls">
      <fieldset><legend>Network</legend>${networkChoice}</fieldset>
      <fieldset><legend>Nodes a side</legend><span id="bq-grid-choice">${gridChoice(GRIDS)}</span></fieldset>
      <fieldset><legend>Show</legend>
        <label><input type="checkbox" name="masks" checked> boundary masks</label>
        <label><input type="checkbox" name="junctions" checked> junctions</label>
        <label><input type="checkbox" name="changed"> changed cells</label>
        <label><input type="checkbox" name="images" checked> test images</label>
      </fieldset>
    </div>
    <div class="bq-level">
      <div class="bq-level-head">
        <label for="bq-position">Bit-width: <output for="bq-position" id="bq-level-name"></output></label>
        <button type="button" id="bq-play">Play</button>
      </div>
      <input type="range" id="bq-position" min="0" max="${(LEVELS.length - 1) * STEPS}" step="1">
      <div class="bq-ticks">${ticks}</div>
    </div>
    <div class="bq-stage">
      <figure class="bq-slice">
        <canvas id="bq-canvas" tabindex="0" role="application" aria-roledescription="slice of the decision regions"
          aria-describedby="bq-keys"></canvas>
        <figcaption id="bq-legend">
          <span><i class="bq-swatch" style="background:${FLOAT_COLOUR}"></i>mask, float only</span>
          <span><i class="bq-swatch" style="background:${QUANTIZED_COLOUR}"></i>mask, this level only</span>
          <span><i class="bq-swatch" style="background:${BOTH_COLOUR}"></i>mask, both</span>
          <span><i class="bq-ring"></i>junction cell</span>
          <span><i class="bq-stripes"></i>changed cell</span>
          <span><i class="bq-dot"></i>test image</span>
          <span><i class="bq-diamond"></i>its decision flips</span>
        </figcaption>
      </figure>
      <div class="bq-readings">
        <table id="bq-measures"><caption>Decisions and slice</caption>
          ${heading("measure", "float", "here")}
          <tbody></tbody></table>
        <table id="bq-grids"><caption>One boundary, several rulers</caption>
          ${heading("nodes", "J", "d<sub>eff</sub>", "nodes changed")}
          <tbody></tbody></table>
      </div>
    </div>
    <p id="bq-summary" class="bq-summary" role="status" aria-live="polite"></p>
    <section class="bq-point" aria-label="Selected test image">
      <div class="bq-point-controls">
        <label>Test image <input type="number" id="bq-image" min="0" step="1"></label>
        <button type="button" id="bq-flip">Next flip</button>
        <button type="button" id="bq-pick">Pick for a plane</button>
        <button type="button" id="bq-home">Back to the PCA slice</button>
        <span id="bq-picks"></span>
      </div>
      <div class="bq-point-body" id="bq-point-body"></div>
      <p id="bq-keys" class="bq-keys"></p>
    </section>`;
  const $ = (id) => document.getElementById(id);
  const [canvas, slider] = [$("bq-canvas"), $("bq-position")];

  // ---- data --------------------------------------------------------------------------------------------------------

  /* Return a network, loaded and unpacked if that was not done. */
  async function load(name) {
    if (!(window.bqNetworks || {})[name]) {
      $("bq-summary").textContent = `Loading the ${NAMES[name]} network …`;
      await D.loadScript(new URL(`${name}.js`, folder));
    }
    const text = new TextDecoder().decode(await G.inflate(window.bqNetworks[name]));
    return (networks[name] = networks[name] || unpack(JSON.parse(text)));
  }

  function unpack(raw) {
    if (raw.label) return unpackFrames(raw);
    const net = {
      inputs: raw.input, hidden: raw.hidden, classes: raw.class, first: G.floats(raw.first),
      firstBias: G.floats(raw.first_bias), second: G.floats(raw.second), secondBias: G.floats(raw.second_bias),
    };
    const axes = G.doubles(raw.axes);
    const pixels = G.bytesOf(raw.image);
    const inputs = Float32Array.from(pixels, (pixel) => pixel / raw.scale);
    const images = G.sparse(inputs, net.inputs);
    const out = {
      raw, net, pixels, inputs, images, targets: G.bytesOf(raw.target), levels: {}, grids: GRIDS, stride: 1,
      count: images.length, names: namesOf(raw),
      pca: {
        origin: G.doubles(raw.origin), axes: [axes.slice(0, net.inputs), axes.slice(net.inputs)],
        low: [...G.doubles(raw.low)], high: [...G.doubles(raw.high)],
      },
      logits: images.map((image) => G.logitsOf(net, image)),
    };
    out.band = new Set(G.boundaryBand(out.logits));
    out.pairs = out.logits.map(G.topPair);
    out.slopes = images.map((_, i) => slopeOf(net, out, i));
    return out;
  }

  const namesOf = (raw) =>
    raw.class_names ? raw.class_names.split(", ") : Array.from({ length: raw.class }, (_, k) => String(k));

  /* The frames of a network: labels at every level, and what was worked out beforehand of its test inputs. */
  function unpackFrames(raw) {
    const [n, count, classes] = [raw.nodes, raw.sample, raw.class];
    const all = new Uint8Array(raw.bits.length * n * n);
    const pairs = G.bytesOf(raw.label); // a label, and how often it follows itself
    for (let i = 0, place = 0; i < pairs.length; i += 2) all.fill(pairs[i], place, (place += pairs[i + 1] + 1));
    const rows = (values, width) => Array.from({ length: values.length / width }, (_, i) =>
      values.subarray(i * width, (i + 1) * width));
    const each = rows(G.floats(raw.logits), classes);
    const logits = raw.bits.map((_, level) => each.slice(level * count, (level + 1) * count));
    const grids = [(n - 1) / 4 + 1, (n - 1) / 2 + 1, n];
    const out = {
      raw, frames: rows(all, n * n), frameLogits: logits, logits: logits[0], targets: G.bytesOf(raw.target), grids, count,
      stride: STEPS, names: namesOf(raw), pixels: raw.image ? G.bytesOf(raw.image) : null,
      radius: G.doubles(raw.radius), rival: G.bytesOf(raw.rival), reach: G.doubles(raw.reach),
      normal: rows(G.doubles(raw.normal), 2), displacement: rows(G.doubles(raw.displacement), count),
      signedDistanceChange: rows(G.doubles(raw.signed_distance_change), count),
      normalVariation: rows(G.doubles(raw.normal_variation), count), score: rows(G.doubles(raw.score), 2),
      pca: { low: [...G.doubles(raw.low)], high: [...G.doubles(raw.high)] },
    };
    out.band = new Set(G.boundaryBand(out.logits));
    out.pairs = out.logits.map(G.topPair);
    return out;
  }

  /* The length of the gradient of a test image's float top-2 margin, in the float network or another one. */
  const slopeOf = (net, data, i) => G.length(G.gradient(net, data.images[i], ...data.pairs[i]));

  const inputOf = (data, i) => data.inputs.subarray(i * data.net.inputs, (i + 1) * data.net.inputs);
  const levelOf = (data, bits) => (data.levels[bits] = data.levels[bits] || G.level(data.net, bits));

  /* The slice that is shown: through the picked images if there are two or three, else the PCA slice. */
  function planeOf(data) {
    if (state.picks.length < 2) return data.pca;
    const [p, q, r] = state.picks.map((i) => inputOf(data, i));
    return G.planeThrough(p, q, r || data.pca.origin) || data.pca;
  }

  /* The labels on each of the grids, of which the last is the finest. */
  function gridsOf(data, finest) {
    const most = data.grids[data.grids.length - 1];
    return Object.fromEntries(data.grids.map((n) => [n, G.thin(finest, most, (most - 1) / (n - 1))]));
  }

  /* Work out the reference on a new plane: the float labels, and where the test images fall. */
  function setPlane(data) {
    const plane = planeOf(data);
    const finest = data.frames ? data.frames[0] : G.sliceLabels(data.net, plane, GRIDS[GRIDS.length - 1]);
    data.slice = {
      plane, custom: plane !== data.pca, labels: gridsOf(data, finest),
      points: data.score || data.images.map((_, i) => G.project(plane, inputOf(data, i))),
    };
  }

  // ---- measures ----------------------------------------------------------------------------------------------------

  const share = (count, of) => `${count} of ${of}`;
  const rate = (count, of) => `${percent(count / of)} (${share(count, of)})`;
  const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  /* Everything that the page says about the network at the slider's position. */
  function measure(data) {
    const place = Math.min(Math.floor(state.position / STEPS), LEVELS.length - 2);
    const t = (state.position - place * STEPS) / STEPS;
    const [one, two] = [LEVELS[place], LEVELS[place + 1]];
    const frame = Math.round(state.position / STEPS);
    const net = data.frames ? null : t === 0 ? levelOf(data, one) : t === 1 ? levelOf(data, two)
      : G.interpolate(levelOf(data, one), levelOf(data, two), t);
    const finest = data.frames ? data.frames[frame] : G.sliceLabels(net, data.slice.plane, GRIDS[GRIDS.length - 1]);
    const labels = gridsOf(data, finest);
    const logits = data.frames ? data.frameLogits[frame] : data.images.map((image) => G.logitsOf(net, image));
    const decisions = logits.map((z) => G.argmax(z));
    const flips = decisions.map((label, i) => label !== data.pairs[i][0]);
    const margins = data.pairs.map(([a, b], i) => logits[i][a] - logits[i][b]);
    const shifts = data.frames ? [...data.displacement[frame]]
      : margins.map((margin, i) => (margin - G.marginOf(data.logits[i])) / data.slopes[i]);
    const distances = data.frames ? [...data.signedDistanceChange[frame]]
      : margins.map((margin, i) =>
        margin / (slopeOf(net, data, i) || NaN) - G.marginOf(data.logits[i]) / (data.slopes[i] || NaN));
    const grids = data.grids.map((n) => G.compare(data.slice.labels[n], labels[n], n, data.slice.plane));
    return {
      net, frame, t, labels, logits, decisions, flips, grids,
      name: t === 0 ? levelName(one) : t === 1 ? levelName(two)
        : `between ${levelName(one)} and ${levelName(two)}, t = ${t}`,
      accuracy: average(decisions.map((label, i) => (label === data.targets[i] ? 1 : 0))),
      floatAccuracy: average(data.pairs.map(([a], i) => (a === data.targets[i] ? 1 : 0))),
      flipCount: G.count(flips), bandFlipCount: G.count(flips.map((flip, i) => flip && data.band.has(i))),
      medianShift: G.median(shifts.map(Math.abs)),
      medianDistanceChange: G.median(distances.filter(Number.isFinite).map(Math.abs)), // a flat margin has none
    };
  }

  // ---- drawing -----------------------------------------------------------------------------------------------------

  const sheets = {};
  let view = null; // from slice coordinates to pixels of the page

  function draw() {
    const data = networks[state.name];
    const { plane, points, labels } = data.slice;
    view = D.fit(canvas, plane);
    const n = state.nodes;
    const steps = G.steps(plane, n);
    const [before, after] = [labels[n], now.labels[n]];
    D.stamp(view, D.sheet(sheets, "regions", n, (i) => D.PALETTE[after[i]]), steps, 0.5);
    if (state.show.changed) D.stripes(view, sheets, G.changedCells(before, after, n), n);
    const corners = G.cornerClasses(after, n);
    if (state.show.masks) {
      const reference = G.cornerClasses(before, n);
      D.stamp(view, D.sheet(sheets, "masks", n - 1, (i) => D.maskColour(reference[i], corners[i])), steps, 0);
    }
    const coarse = Math.min(101, data.grids[data.grids.length - 1]); // is fine enough for letters
    D.letters(view, now.labels[coarse], coarse);
    if (state.show.junctions) D.junctions(view, corners, n);
    const size = now.flipCount > 40 ? 4.5 : 7; // of the diamonds
    if (state.show.images) points.forEach((point, i) => drawPoint(point, now.flips[i] && size));
    state.picks.forEach((i) => D.ring(view, points[i], 8, "#000000", 2.5));
    if (state.selected >= 0) drawSelected(data, points[state.selected]);
  }

  function drawPoint([a, b], size) {
    const { context } = view;
    const [x, y] = [view.x(a), view.y(b)];
    if (x < -5 || y < -5 || x > view.width + 5 || y > view.height + 5) return;
    context.beginPath();
    if (size) {
      context.moveTo(x, y - size);
      for (const [dx, dy] of [[size, 0], [0, size], [-size, 0]]) context.lineTo(x + dx, y + dy);
      context.closePath();
    } else context.arc(x, y, 2, 0, 2 * Math.PI);
    context.fillStyle = size ? QUANTIZED_COLOUR : "rgba(30, 30, 30, 0.65)";
    context.strokeStyle = size ? "#000000" : "rgba(255, 255, 255, 0.8)";
    context.lineWidth = size ? 1.2 : 0.8;
    context.fill();
    context.stroke();
  }

  /* The radius as a circle, the way to the boundary of the top-2 pair, and from there the displacement as an arrow. */
  function drawSelected(data, point) {
    const { radius, change } = now.detail;
    D.ring(view, point, Math.max(radius.radius * view.scale, 3), FLOAT_COLOUR, 1.6, [5, 4]);
    D.ring(view, point, 5, "#000000", 2);
    const normal = data.frames ? change.normal : data.slice.plane.axes.map((axis) => G.dot(change.normal, axis));
    const foot = Array.from(point, (value, i) => value + now.detail.reach * normal[i]);
    D.line(view, point, foot, FLOAT_COLOUR);
    const size = Math.abs(change.displacement) * Math.hypot(...normal) * view.scale;
    now.detail.magnified = [1, 3, 10, 30, 100, 300].find((times) => times * size >= 16) || (size > 0 ? 1000 : 1);
    const shift = now.detail.magnified * change.displacement;
    if (size > 0) D.arrow(view, foot, foot.map((value, i) => value + shift * normal[i]), QUANTIZED_COLOUR);
  }

  // ---- words and numbers -------------------------------------------------------------------------------------------

  const fixed = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "none");
  const percent = (value) => `${fixed(100 * value, 2)} %`;

  function tell() {
    const data = networks[state.name];
    const total = data.count;
    const here = now.grids[data.grids.indexOf(state.nodes)];
    const own = G.cornerClasses(data.slice.labels[state.nodes], state.nodes);
    const rows = [
      ["accuracy", fixed(now.floatAccuracy, 4), fixed(now.accuracy, 4)],
      ["flip rate", "", rate(now.flipCount, total)],
      ["band flips", "", rate(now.bandFlipCount, data.band.size)],
      ["median displacement", "", fixed(now.medianShift, 4)],
      ["median signed distance change", "", fixed(now.medianDistanceChange, 4)],
      ["Jaccard distance J", "", fixed(here.jaccard, 3)],
      ["d<sub>eff</sub>", "", fixed(here.effectiveDisplacement, 4)],
      ["nodes changed", "", percent(here.gridChange)],
      ["changed cells", "", here.changedCells],
      ["boundary cells", G.count(own, 2), here.boundaryCells],
      ["junction cells", G.count(own, 3), here.junctions],
    ];
    $("bq-measures").tBodies[0].innerHTML = rows.map(([name, one, two]) =>
      `<tr><th scope="row">${name}</th><td>${one}</td><td class="bq-here">${two}</td></tr>`).join("");
    $("bq-grids").tBodies[0].innerHTML = now.grids.map((grid) =>
      `<tr${grid.nodes === state.nodes ? ' class="bq-current" aria-current="true"' : ""}>` +
      `<th scope="row">${grid.nodes}</th><td>${fixed(grid.jaccard, 3)}</td><td>${fixed(grid.effectiveDisplacement, 4)}</td>` +
      `<td>${percent(grid.gridChange)}</td></tr>`).join("");
    $("bq-level-name").textContent = now.name;
    slider.setAttribute("aria-valuetext", now.name);
    root.querySelectorAll(".bq-ticks button").forEach((button) =>
      button.toggleAttribute("data-current", Number(button.dataset.position) === state.position));
    const where = data.slice.custom ? "the plane through the picked images" : "the PCA slice";
    const text = `${NAMES[state.name]}, ${now.name}: accuracy ${fixed(now.accuracy, 4)} (float ` +
      `${fixed(now.floatAccuracy, 4)}); ${share(now.flipCount, total)} decisions flip, ` +
      `${share(now.bandFlipCount, data.band.size)} in the boundary band. On ${state.nodes} nodes a side of ` +
      `${where} the boundary Jaccard distance is ${fixed(here.jaccard, 3)}, d_eff ` +
      `${fixed(here.effectiveDisplacement, 4)} input units; ${here.junctions} junction cells.`;
    const about = state.selected < 0 ? "" : ` ${now.detail.text}`;
    canvas.setAttribute("aria-label", `Decision regions on a slice. ${text}${about}`);
    clearTimeout(tell.timer); // spoken when the slider rests, not at each of its steps
    tell.timer = setTimeout(() => ($("bq-summary").textContent = text + about), 400);
  }

  /* Work out what is said and drawn of the selected image. */
  function detail() {
    const data = networks[state.name];
    const i = state.selected;
    if (i < 0) return null;
    const [winner, runnerUp] = data.pairs[i];
    const change = !data.frames ? G.localChange(data.net, now.net, data.images[i]) : {
      displacement: data.displacement[now.frame][i],
      signedDistanceChange: data.signedDistanceChange[now.frame][i],
      normalVariation: data.normalVariation[now.frame][i],
      normal: data.normal[i], winner, runnerUp,
    };
    const found = !data.frames ? G.radius(data.net, data.images[i])
      : { radius: data.radius[i], winner, rival: data.rival[i] };
    const reach = data.frames ? data.reach[i] : G.marginOf(data.logits[i]) / data.slopes[i];
    const named = (k) => (data.names[k] === String(k) ? String(k) : `${k} (${data.names[k]})`);
    return {
      change, radius: found, reach, named,
      text: `Test image ${i}, class ${named(data.targets[i])}: float says ${named(data.pairs[i][0])}, here ` +
        `${named(now.decisions[i])}; radius ${fixed(found.radius, 3)}, displacement ` +
        `${fixed(change.displacement, 4)} and signed distance change ${fixed(change.signedDistanceChange, 4)} input units.`,
    };
  }

  function paintImage(target, data, i) {
    const { height, width, scale } = data.raw;
    target.width = width;
    target.height = height;
    const image = target.getContext("2d").createImageData(width, height);
    for (let p = 0; p < width * height; p++) {
      image.data.fill(255 - Math.round((255 * data.pixels[i * width * height + p]) / scale), 4 * p, 4 * p + 3);
      image.data[4 * p + 3] = 255;
    }
    target.getContext("2d").putImageData(image, 0, 0);
  }

  function tellPoint() {
    const data = networks[state.name];
    const i = state.selected;
    $("bq-image").max = data.count - 1;
    $("bq-image").value = i < 0 ? "" : i;
    $("bq-pick").disabled = i < 0;
    $("bq-pick").textContent = state.picks.includes(i) ? "Drop from the plane" : "Pick for a plane";
    $("bq-home").disabled = state.picks.length === 0;
    $("bq-flip").disabled = now.flipCount === 0;
    const body = $("bq-point-body");
    if (i < 0) {
      body.innerHTML = "<p>Point at a test image, or tap it, for its logits, radius and displacement.</p>";
      return;
    }
    const { change, radius, named, magnified } = now.detail;
    const [before, after] = [data.logits[i], now.logits[i]];
    const all = [...before, ...after];
    const [least, most] = [Math.min(...all), Math.max(...all)];
    const bar = (value, colour) => {
      const width = Math.round((100 * (value - least)) / (most - least || 1));
      return `<i class="bq-bar" style="width:${width}%;background:${colour}"></i>`;
    };
    const pair = `${change.winner} against ${change.runnerUp}`;
    const cell = (z, k, colour) =>
      `<td${G.argmax(z) === k ? ' class="bq-winner"' : ""}>${fixed(z[k], 2)}${bar(z[k], colour)}</td>`;
    const thumb = data.pixels ? `<canvas role="img" aria-label="Test image ${i}"></canvas>`
      : "<p>Images of CIFAR-10 are not passed on: it states no licence.</p>";
    body.innerHTML = `<div class="bq-thumb">${thumb}</div>
      <dl>
        <div><dt>true class</dt><dd>${named(data.targets[i])}</dd></div>
        <div><dt>float decides</dt><dd>${named(data.pairs[i][0])}</dd></div>
        <div><dt>here</dt><dd>${named(now.decisions[i])}${now.flips[i] ? " <strong>(flips)</strong>" : ""}</dd></div>
        <div><dt>in the boundary band</dt><dd>${data.band.has(i) ? "yes" : "no"}</dd></div>
        <div><dt>radius</dt><dd>${fixed(radius.radius, 3)}, to ${named(radius.rival)}</dd></div>
        <div><dt>displacement</dt><dd>${fixed(change.displacement, 4)}, of ${pair}</dd></div>
        <div><dt>signed distance change</dt><dd>${fixed(change.signedDistanceChange, 4)}</dd></div>
        <div><dt>normal variation</dt><dd>${change.normalVariation.toExponential(1)}</dd></div>
        <div><dt>arrow</dt><dd>${magnified > 1 ? `drawn ${magnified} times as long` : "true length"}</dd></div>
      </dl>
      <table><caption>Logits</caption>
        ${heading("class", "float", "here")}
        <tbody>${[...before].map((_, k) => `<tr><th scope="row">${named(k)}</th>` +
          `${cell(before, k, FLOAT_COLOUR)}${cell(after, k, QUANTIZED_COLOUR)}</tr>`).join("")}</tbody></table>`;
    if (data.pixels) paintImage(body.querySelector("canvas"), data, i);
  }

  function tellPicks() {
    const data = networks[state.name];
    const where = $("bq-picks");
    const advice = ["", "pick one more, or two", "and the training mean; or pick a third", ""];
    where.innerHTML = state.picks.map((i) =>
      `<canvas class="bq-small" role="img" aria-label="Picked test image ${i}"></canvas>`).join("") +
      advice[state.picks.length];
    where.querySelectorAll("canvas").forEach((small, k) => paintImage(small, data, state.picks[k]));
  }

  // ---- what the reader does ----------------------------------------------------------------------------------------

  /* Redraw: at the next frame, so that no more is worked out than can be seen. */
  let due = 0;
  function refresh() {
    if (!due) due = requestAnimationFrame(show);
  }

  function show() {
    due = 0;
    const data = networks[state.name];
    if (!data) return;
    now = measure(data);
    showPoint();
  }

  function showPoint() {
    now.detail = detail();
    draw();
    tell();
    tellPoint();
  }

  async function choose(name) {
    const data = networks[name] || (await load(name).catch(D.unloaded));
    if (!data) {
      $("bq-summary").textContent = `The ${NAMES[name]} network could not be loaded from ${new URL(`${name}.js`, folder)}.`;
      return;
    }
    if (root.querySelector('input[name="bq-network"]:checked').value !== name) return; // another one was chosen meanwhile
    const nodes = data.grids.includes(state.nodes) ? state.nodes : data.frames ? data.grids[2] : 201;
    Object.assign(state, { name, nodes, picks: [], selected: -1 });
    $("bq-grid-choice").innerHTML = gridChoice(data.grids);
    root.classList.toggle("bq-framed", Boolean(data.frames)); // without planes of one's own
    $("bq-keys").textContent = KEYS + (data.frames ? "." : ", Enter picks it for a plane, Escape goes back to the PCA slice.");
    slider.step = data.stride;
    state.position = Math.round(state.position / data.stride) * data.stride;
    slider.value = state.position;
    stop();
    setPlane(data);
    tellPicks();
    show();
  }

  function move(position) {
    const { stride } = networks[state.name] || { stride: 1 };
    state.position = stride * Math.round(Math.min(Math.max(position, 0), (LEVELS.length - 1) * STEPS) / stride);
    slider.value = state.position;
    refresh();
  }

  function select(i) {
    if (!now || i === state.selected || !(i >= -1 && i < networks[state.name].count)) return;
    state.selected = i;
    showPoint();
  }

  /* Take the selected image into the plane, or out of it again. */
  function pick() {
    const i = state.selected;
    if (i < 0 || networks[state.name].frames) return;
    if (state.picks.includes(i)) state.picks = state.picks.filter((other) => other !== i);
    else state.picks = [...state.picks, i].slice(-MOST_PICKS);
    replane();
  }

  function replane() {
    setPlane(networks[state.name]);
    tellPicks();
    show();
  }

  /* The test image nearest to a place on the page, within reach of a finger. */
  function nearest(event) {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = [-1, 24];
    networks[state.name].slice.points.forEach(([a, b], i) => {
      const distance = Math.hypot(view.x(a) - x, view.y(b) - y);
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  }

  /* The nearest test image in the direction of an arrow key, more ahead than aside. */
  function toward([dx, dy]) {
    const { points, plane } = networks[state.name].slice;
    const middle = [0, 1].map((i) => (plane.low[i] + plane.high[i]) / 2);
    const from = state.selected < 0 ? middle : points[state.selected];
    let [best, least] = [state.selected, Infinity];
    points.forEach((point, i) => {
      const [u, v] = [point[0] - from[0], point[1] - from[1]];
      const [ahead, aside] = [u * dx + v * dy, Math.abs(u * dy - v * dx)];
      if (i !== state.selected && ahead > aside && ahead + 2 * aside < least) [best, least] = [i, ahead + 2 * aside];
    });
    select(best);
  }

  root.addEventListener("change", ({ target }) => {
    if (target.name === "bq-network") choose(target.value);
    else if (target.name === "bq-nodes") {
      state.nodes = Number(target.value);
      if (now) showPoint();
    } else if (target.type === "checkbox") {
      state.show[target.name] = target.checked;
      if (now) draw();
    } else if (target.id === "bq-image" && target.value !== "") select(Number(target.value));
  });
  slider.addEventListener("input", () => move(Number(slider.value)));
  slider.addEventListener("keydown", (event) => {
    const whole = { PageUp: 1, PageDown: -1 }[event.key];
    if (!whole) return;
    event.preventDefault();
    const level = state.position / STEPS;
    move(STEPS * (whole > 0 ? Math.floor(level + 1) : Math.ceil(level - 1)));
  });
  root.querySelector(".bq-ticks").addEventListener("click", ({ target }) => {
    if (target.dataset.position) move(Number(target.dataset.position));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse" || !now) return;
    const i = nearest(event);
    if (i >= 0) select(i);
  });
  canvas.addEventListener("click", (event) => {
    if (!now) return;
    const i = nearest(event);
    select(i);
    if (i >= 0) pick();
  });
  const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  canvas.addEventListener("keydown", (event) => {
    if (!now) return;
    if (DIRECTIONS[event.key]) toward(DIRECTIONS[event.key]);
    else if (event.key === "Enter" || event.key === " ") pick();
    else if (event.key === "Escape") $("bq-home").click();
    else return;
    event.preventDefault();
  });
  $("bq-pick").addEventListener("click", pick);
  $("bq-home").addEventListener("click", () => {
    state.picks = [];
    if (now) replane();
  });
  $("bq-flip").addEventListener("click", () => {
    const found = now.flips.map((flip, i) => (flip ? i : -1)).filter((i) => i >= 0);
    select(found.find((i) => i > state.selected) ?? found[0]);
  });

  /* Play: from float to the fewest bits; level by level where the reader wants no motion. */
  let playing = 0;
  function stop() {
    clearInterval(playing);
    playing = 0;
    $("bq-play").textContent = "Play";
  }
  $("bq-play").addEventListener("click", () => {
    if (playing) return stop();
    const last = Number(slider.max);
    if (state.position >= last) move(0);
    const still = calm.matches || networks[state.name].stride === STEPS; // level by level
    const stride = still ? STEPS : 1;
    $("bq-play").textContent = "Stop";
    playing = setInterval(() => {
      move((Math.floor(state.position / stride) + 1) * stride);
      if (state.position >= last) stop();
    }, still ? 1500 : 120);
    return undefined;
  });

  if (window.ResizeObserver) new ResizeObserver(() => now && draw()).observe(canvas.parentElement);
  slider.value = state.position;
  choose(known[0]);

  window.bqExplorer = { state, networks, LEVELS, STEPS, GRIDS, current: () => now, show, move, select, pick };
})();
