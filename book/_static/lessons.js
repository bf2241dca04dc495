/*
The pictures of the course: classifiers small enough for a blackboard, on the square from −1 to 1 (the last on 0 to 1).
Each picture is an entry of LESSONS: what can be set, what follows from it, what is drawn and what is said. The numbers
are those of bqcore for the same classifiers, which tests/book/test_lessons_page.py compares.
*/
"use strict";
(() => {
  const [G, D] = [window.bqGeometry, window.bqDrawing];
  const LEVELS = [G.FLOAT, 8, 7, 6, 5, 4, 3, 2];
  const SQUARE = { low: [-1, -1], high: [1, 1] };
  const UNIT = { low: [0, 0], high: [1, 1] };
  const levelName = (bits) => (bits === G.FLOAT ? "float" : `${bits} bits`);
  const fixed = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "none");

  // The classifiers, in float32 as torch has them.
  const TWO_UNITS = {
    inputs: 2, hidden: 2, classes: 2, first: Float32Array.of(1, 0.6, -0.7, 1), firstBias: Float32Array.of(0.2, -0.1),
    second: Float32Array.of(1, -0.8, -0.4, 0.9), secondBias: Float32Array.of(-0.3, 0),
  };
  const THREE_CLASSES = {
    classes: 3, weight: Float32Array.of(1, 0.2, -0.6, 0.9, -0.3, -1.1), bias: Float32Array.of(0, 0.05, 0),
  };
  const FOUR_CLASSES = {
    classes: 4, weight: Float32Array.of(0.55, 0.33, -0.38, 0.55, -0.62, 0.32, 0.06, -0.77),
    bias: Float32Array.of(-0.22, 0.06, 0.41, 0.44),
  };

  /* Label n × n nodes of a box by a function from a place to logits. */
  function labelsOf(logits, plane, n) {
    const [a, b] = [0, 1].map((i) => G.nodes(plane.low[i], plane.high[i], n));
    return Uint8Array.from({ length: n * n }, (_, i) => G.argmax(logits([a[i % n], b[Math.floor(i / n)]])));
  }

  /* The logits of a linear classifier. */
  const linear = ({ weight, bias }) => ([x, y]) =>
    Float64Array.from(bias, (shift, k) => weight[2 * k] * x + weight[2 * k + 1] * y + shift);

  /* The slope of z_a − z_b of a linear classifier. */
  const slope = ({ weight }, a, b) => [0, 1].map((i) => weight[2 * a + i] - weight[2 * b + i]);

  const quantized = (net, bits) => ({ ...net, weight: G.quantize(net.weight, bits) });

  /* Regions after, stripes on some cells, masks before and after, letters: what all pictures begin with. */
  function drawSlice(view, store, before, after, n, striped = null) {
    const steps = G.steps(view.plane, n);
    D.stamp(view, D.sheet(store, "regions", n, (i) => D.PALETTE[after[i]]), steps, 0.5);
    if (striped) D.stripes(view, store, striped, n);
    const [one, two] = [G.cornerClasses(before, n), G.cornerClasses(after, n)];
    D.stamp(view, D.sheet(store, "masks", n - 1, (i) => D.maskColour(one[i], two[i])), steps, 0);
    D.letters(view, after, n);
    return two;
  }

  const MASK_LEGEND = [
    [`<i class="bq-swatch" style="background:${D.FLOAT_COLOUR}"></i>`, "mask, float only"],
    [`<i class="bq-swatch" style="background:${D.QUANTIZED_COLOUR}"></i>`, "mask, quantized only"],
    [`<i class="bq-swatch" style="background:${D.BOTH_COLOUR}"></i>`, "mask, both"],
  ];
  const BITS = {
    name: "level", label: "Bit-width", low: 0, high: LEVELS.length - 1, step: 1, start: 5,
    text: (v) => levelName(LEVELS[v]),
  };
  const PLACE = ["x₁", "x₂"].map((label, i) => ({
    name: `x${i + 1}`, label, low: -1, high: 1, step: 0.05, start: [0.5, 0.35][i], text: (v) => fixed(v, 2),
  }));

  const gridOf = (sizes) => ({
    name: "grid", label: "Nodes a side", low: 0, high: sizes.length - 1, step: 1, start: 1, text: (v) => String(sizes[v]),
  });

  const LESSONS = {};

  const LAYER = [[1, -0.62, 0.3, 0.11], [0.16, -0.12, 0.07, 0.04]]; // two channels
  const LINES = [1.15, 0.35]; // where each channel's number line lies

  LESSONS.quantization = {
    plane: { low: [-1.12, 0], high: [1.12, 1.6] },
    controls: [
      { name: "bits", label: "Bit-width", low: 2, high: 8, step: 1, start: 3, text: (v) => `${v} bits` },
      {
        name: "own", label: "Step", low: 0, high: 1, step: 1, start: 0,
        text: (v) => (v ? "one a channel" : "one for all"),
      },
      {
        name: "kept", label: "Clip at", low: 20, high: 100, step: 5, start: 100, text: (v) => `${v} %`,
      },
      { name: "first", label: "First weight", low: 0.2, high: 1, step: 0.05, start: 1, text: (v) => fixed(v, 2) },
    ],
    legend: [
      [`<i class="bq-dot" style="background:${D.FLOAT_COLOUR}"></i>`, "weight"],
      [`<i class="bq-dot" style="background:${D.QUANTIZED_COLOUR}"></i>`, "its level, times the step"],
      ["<b>|</b>", "what the grid allows"],
    ],
    result({ bits, own, kept, first }) {
      const layer = LAYER.map((row) => Float32Array.from(row));
      layer[0][0] = first;
      const all = Float32Array.from(layer.flatMap((row) => [...row]));
      const channels = layer.map((weights) => {
        const { top, step } = G.grid(own ? weights : all, bits, kept / 100);
        const levels = G.levels(weights, { top, step });
        return { weights, top, step, levels, quantized: levels.map((level) => level * step) };
      });
      const errors = channels.flatMap(({ weights, quantized }) => [...weights].map((w, i) => quantized[i] - w));
      return {
        channels, worst: Math.max(...errors.map(Math.abs)),
        zeros: G.count(channels.flatMap(({ levels }) => [...levels].map((level) => level === 0))),
        meanSquare: errors.reduce((sum, e) => sum + e * e, 0) / errors.length,
      };
    },
    draw(view, store, { channels }) {
      channels.forEach(({ weights, top, step, quantized }, c) => {
        const y = LINES[c];
        D.line(view, [-1.08, y], [1.08, y], "#444444", 1.5);
        for (let k = -top; k <= top; k++) {
          const tall = k === 0 ? 0.1 : 0.06;
          D.line(view, [k * step, y - tall], [k * step, y + tall], "#444444", top > 40 ? 0.5 : 1.5);
        }
        D.write(view, [-1.06, y + 0.34], `channel ${c + 1}`, "left");
        for (const at of [-1, 0, 1]) D.write(view, [at, y - 0.18], fixed(at, 0));
        weights.forEach((w, i) => {
          D.line(view, [w, y + 0.24], [quantized[i], y], "#777777", 1, [3, 3]);
          D.ring(view, [w, y + 0.24], 3, D.FLOAT_COLOUR, 4);
        });
        quantized.forEach((w) => D.ring(view, [w, y], 3, D.QUANTIZED_COLOUR, 4));
      });
    },
    table: ({ channels }) => [
      ["channel, step", "weight", "level", "becomes"],
      ...channels.flatMap(({ weights, step, levels, quantized }, c) => [...weights].map((w, i) =>
        [i ? "" : `${c + 1}, ${fixed(step)}`, fixed(w, 2), fixed(levels[i], 0), fixed(quantized[i])])),
    ],
    say: ({ zeros, worst, meanSquare }, { bits, own }) => `${bits} bits, ${own ? "one step for each channel" : "one step"}: ` +
      `${zeros} of 8 weights become 0; the largest error is ${fixed(worst)}, the mean squared error ${fixed(meanSquare, 5)}.`,
  };

  LESSONS.boundary = {
    plane: SQUARE, controls: [BITS, ...PLACE], nodes: 201,
    legend: [...MASK_LEGEND, ["<b>- -</b>", "where a unit switches on"], ['<i class="bq-dot"></i>', "x"]],
    result({ level, x1, x2 }) {
      const nets = [TWO_UNITS, G.level(TWO_UNITS, LEVELS[level])];
      const input = { places: Int32Array.of(0, 1), values: Float64Array.of(x1, x2) };
      const [before, after] = nets.map((net) => {
        const z = (place) => G.logitsOf(net, { places: input.places, values: place });
        const hidden = G.hiddenOf(net, input).map((value) => Math.max(value, 0));
        const logits = G.logitsOf(net, input);
        const labels = labelsOf(z, SQUARE, 201);
        return { net, hidden, logits, margin: logits[0] - logits[1], label: G.argmax(logits), labels };
      });
      return { before, after, ...G.compare(before.labels, after.labels, 201, SQUARE) };
    },
    draw(view, store, { before, after }, { x1, x2 }) {
      drawSlice(view, store, before.labels, after.labels, 201);
      for (let j = 0; j < 2; j++) {
        const [u, v, shift] = [after.net.first[2 * j], after.net.first[2 * j + 1], after.net.firstBias[j]];
        const steep = Math.abs(u) > Math.abs(v);
        const ends = [-2, 2].map((s) => (steep ? [-(v * s + shift) / u, s] : [s, -(u * s + shift) / v]));
        D.line(view, ...ends, "#444444", 1.5, [6, 5]);
      }
      D.ring(view, [x1, x2], 5, "#000000", 3);
    },
    table({ before, after }) {
      const both = (name, value) => [name, fixed(value(before)), fixed(value(after))];
      return [
        ["at x", "float", "here"],
        both("unit 1", (net) => net.hidden[0]),
        both("unit 2", (net) => net.hidden[1]),
        both("logit of class 0", (net) => net.logits[0]),
        both("logit of class 1", (net) => net.logits[1]),
        both("margin z₀ − z₁", (net) => net.margin),
        ["decision", before.label, after.label],
      ];
    },
    say: ({ before, after, gridChange }, { level }) => `${levelName(LEVELS[level])}: margin ${fixed(after.margin)} ` +
      `(float ${fixed(before.margin)}), class ${after.label}; ${fixed(100 * gridChange, 1)} % of the nodes change.`,
  };

  LESSONS.displacement = {
    plane: SQUARE, controls: [{ ...BITS, start: 7 }, ...PLACE], nodes: 201,
    legend: [
      ...MASK_LEGEND, [`<i class="bq-swatch bq-stroke" style="background:${D.FLOAT_COLOUR}"></i>`, "radius"],
      [`<i class="bq-swatch bq-stroke" style="background:${D.QUANTIZED_COLOUR}"></i>`, "displacement"],
    ],
    result({ level, x1, x2 }) {
      const nets = [THREE_CLASSES, quantized(THREE_CLASSES, LEVELS[level])];
      const [zf, zq] = nets.map((net) => linear(net)([x1, x2]));
      const [a, b] = G.topPair(zf);
      const [one, other] = nets.map((net) => slope(net, a, b));
      const size = Math.hypot(...one);
      const [mf, mq] = [zf[a] - zf[b], zq[a] - zq[b]];
      const normal = one.map((g) => -g / size);
      const chord = one.reduce((sum, g, i) => sum + (g / size - other[i] / Math.hypot(...other)) ** 2, 0);
      let radius = Infinity;
      let rival = b;
      zf.forEach((value, k) => {
        const distance = (zf[a] - value) / Math.hypot(...slope(THREE_CLASSES, a, k));
        if (k !== a && distance < radius) [radius, rival] = [distance, k];
      });
      const [before, after] = nets.map((net) => labelsOf(linear(net), SQUARE, 201));
      return {
        before, after, radius, rival, winner: a, runnerUp: b, displacement: (mq - mf) / size, normal, reach: mf / size,
        signedDistanceChange: mq / Math.hypot(...other) - mf / size, normalVariation: chord / 2,
        exact: -mq / (other[0] * normal[0] + other[1] * normal[1]) - mf / size,
        label: G.argmax(zq), ...G.compare(before, after, 201, SQUARE),
      };
    },
    draw(view, store, found, { x1, x2 }) {
      drawSlice(view, store, found.before, found.after, 201);
      const x = [x1, x2];
      const foot = x.map((value, i) => value + found.reach * found.normal[i]);
      D.ring(view, x, found.radius * view.scale, D.FLOAT_COLOUR, 1.6, [5, 4]);
      D.line(view, x, foot, D.FLOAT_COLOUR);
      if (Math.abs(found.displacement) * view.scale > 1) {
        D.arrow(view, foot, foot.map((value, i) => value + found.displacement * found.normal[i]), D.QUANTIZED_COLOUR);
      }
      D.ring(view, x, 5, "#000000", 3);
    },
    table: (found) => [
      ["at x", "value"],
      ["float decision, runner-up", `${found.winner}, ${found.runnerUp}`],
      ["radius r", `${fixed(found.radius)}, to ${found.rival}`],
      ["displacement δ, first order", fixed(found.displacement)],
      ["signed distance change Δs", fixed(found.signedDistanceChange)],
      ["displacement along that normal, exact", fixed(found.exact)],
      ["normal variation ν", fixed(found.normalVariation, 4)],
      ["decision here", `${found.label}${found.label === found.winner ? "" : " (flips)"}`],
    ],
    say: (found, { level }) => `${levelName(LEVELS[level])}: radius ${fixed(found.radius)}, displacement ` +
      `${fixed(found.displacement)} (exactly ${fixed(found.exact)}); ` +
      `the decision ${found.label === found.winner ? "stays" : "flips"}.`,
  };

  const STEPS = 11;
  const paths = {};

  /* The label grids between 3 and 2 bits, ends included. */
  function pathOf(n) {
    const [one, two] = [3, 2].map((bits) => quantized(FOUR_CLASSES, bits));
    return (paths[n] = paths[n] || Array.from({ length: STEPS }, (_, step) => {
      const t = step / (STEPS - 1);
      const at = { classes: 4, weight: G.mix(one.weight, two.weight, t), bias: G.mix(one.bias, two.bias, t) };
      return labelsOf(linear(at), SQUARE, n);
    }));
  }

  LESSONS.junctions = {
    plane: SQUARE, nodes: 41,
    controls: [
      {
        name: "step", label: "Interpolation t", low: 0, high: STEPS - 1, step: 1, start: 0,
        text: (v) => (v / 10).toFixed(1),
      },
      gridOf([21, 41, 81, 161]),
    ],
    legend: [[`<i class="bq-swatch" style="background:${D.FLOAT_COLOUR}"></i>`, "mask at 3 bits"],
      [`<i class="bq-swatch" style="background:${D.QUANTIZED_COLOUR}"></i>`, "mask at t"],
      [`<i class="bq-swatch" style="background:${D.BOTH_COLOUR}"></i>`, "mask, both"],
      ['<i class="bq-ring"></i>', "junction cell"],
      ['<i class="bq-stripes"></i>', "changed in this step"]],
    result({ step, grid }) {
      const n = [21, 41, 81, 161][grid];
      const path = pathOf(n);
      const moved = G.changedCells(path[Math.max(step - 1, 0)], path[step], n);
      const here = G.count(G.cornerClasses(path[step], n), 3);
      return { n, path, moved, here, now: G.count(moved), ...G.transition(path, n) };
    },
    draw(view, store, { n, path, moved }, { step }) {
      const corners = drawSlice(view, store, path[0], path[step], n, moved);
      D.junctions(view, corners, n, 8);
    },
    table: (found) => [
      ["cells", "count"],
      ["junction cells at this t", found.here],
      ["changed in this step", found.now],
      ["junction cells at some t (union)", found.union],
      ["changed at some step", found.changed],
      ["near a junction: of the changed cells", fixed(found.shareNear)],
      ["of all boundary cells (chance)", fixed(found.chanceBoundary)],
      ["rearranged cells, all steps", found.rearranged],
      ["of these near a junction", fixed(found.shareRearrangedNear)],
    ],
    say: (found, { step }) => `t = ${(step / 10).toFixed(1)} on ${found.n} nodes a side: ` +
      `${found.here} junction cells, ${found.now} cells changed in this step.`,
  };

  LESSONS.ruler = {
    plane: UNIT,
    controls: [
      { name: "shift", label: "Shift d", low: 0, high: 0.1, step: 0.002, start: 0.02, text: (v) => fixed(v) },
      { name: "angle", label: "Direction", low: 0, high: 90, step: 1, start: 20, text: (v) => `${v}°` },
      gridOf([11, 21, 41, 81, 161]),
    ],
    legend: [[`<i class="bq-swatch" style="background:${D.FLOAT_COLOUR}"></i>`, "mask before"],
      [`<i class="bq-swatch" style="background:${D.QUANTIZED_COLOUR}"></i>`, "mask after"],
      [`<i class="bq-swatch" style="background:${D.BOTH_COLOUR}"></i>`, "both"]],
    result({ shift, angle, grid }) {
      const n = [11, 21, 41, 81, 161][grid];
      const [c, s] = [Math.cos((angle * Math.PI) / 180), Math.sin((angle * Math.PI) / 180)];
      const side = (offset) => labelsOf(([x, y]) => [offset, (x - 0.47) * c + (y - 0.51) * s], UNIT, n);
      const [before, after] = [side(0), side(shift)];
      const h = 1 / (n - 1);
      const w = h * (Math.abs(c) + Math.abs(s));
      const found = G.compare(before, after, n, UNIT);
      return {
        n, h, before, after, c, s, ...found,
        law: 1 - Math.max(w - shift, 0) / (w + Math.min(shift, w)),
        meanLaw: shift <= h ? (2 * shift) / ((4 * h) / Math.PI + shift) : NaN,
      };
    },
    draw(view, store, { before, after, n, c, s }, { shift }) {
      drawSlice(view, store, before, after, n);
      for (const [offset, colour] of [[0, D.FLOAT_COLOUR], [shift, D.QUANTIZED_COLOUR]]) {
        const [x, y] = [0.47 + offset * c, 0.51 + offset * s];
        D.line(view, [x + 2 * s, y - 2 * c], [x - 2 * s, y + 2 * c], colour, 2);
      }
    },
    table: (found) => [
      ["measure", "value"],
      ["grid step h", fixed(found.h, 4)],
      ["J, measured", fixed(found.jaccard)],
      ["J, by the law for this direction", fixed(found.law)],
      ["J, by the law over all directions", fixed(found.meanLaw)],
      ["d<sub>eff</sub>, from J and h", fixed(found.effectiveDisplacement, 4)],
      ["nodes changed", `${fixed(100 * found.gridChange, 2)} %`],
    ],
    say: (found, { shift }) => `A shift of ${fixed(shift)} on ${found.n} nodes a side: J = ${fixed(found.jaccard)}, ` +
      `d_eff = ${fixed(found.effectiveDisplacement, 4)}.`,
  };

  const RUNS = window.bqRuns; // on the pages that show them
  const read = {};

  /* The values of a claim on a ruler, a row for each seed; a measure off the slice has one ruler. */
  function valuesOf(claim, ruler) {
    const { measure } = RUNS.claims[claim];
    const name = `${measure} ${Math.min(ruler, rulersOf(claim) - 1)}`;
    return (read[name] = read[name] || G.doubles(RUNS.values[measure][Math.min(ruler, rulersOf(claim) - 1)]));
  }

  const rulersOf = (claim) => RUNS.values[RUNS.claims[claim].measure].length;

  /* The interval for one more run, as bqcore.metrics.statistics.prediction_interval: by ranks from 39 runs on, else Student's. */
  function interval(values) {
    const n = values.length;
    const rank = Number(((n + 1) * 0.025).toFixed(9));
    if (rank >= 1) {
      const sorted = Float64Array.from(values).sort();
      const at = (r) => {
        const below = Math.min(Math.floor(r), n - 1);
        return sorted[below - 1] + (r - below) * (sorted[below] - sorted[below - 1]);
      };
      return { middle: G.median(values), low: at(rank), high: at(n + 1 - rank) };
    }
    const mean = values.reduce((sum, v) => sum + v, 0) / n;
    const spread = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1));
    const half = RUNS.t[n] * spread * Math.sqrt(1 + 1 / n);
    return { middle: mean, low: mean - half, high: mean + half };
  }

  /* Judge a claim by some runs as the ledger does: is the paper's number inside, and is another bit-width's mean? */
  function judge(claim, ruler, first, many) {
    const { reported, bits, share } = RUNS.claims[claim];
    const all = valuesOf(claim, ruler);
    const width = RUNS.bits.length;
    const columns = RUNS.bits.map((_, b) =>
      Float64Array.from({ length: many }, (_, i) => all[((first + i) % RUNS.seeds) * width + b]));
    const means = columns.map((column) => column.reduce((sum, v) => sum + v, 0) / many);
    const own = RUNS.bits.indexOf(bits);
    const found = interval(columns[own]);
    const [low, high] = share ? [Math.max(found.low, 0), Math.min(found.high, 1)] : [found.low, found.high];
    const held = RUNS.bits.filter((_, b) => b !== own && low <= means[b] && means[b] <= high);
    const inside = low <= reported && reported <= high;
    const verdict = !inside ? "not reproduced" : held.length ? "compatible" : "reproduced";
    return { middle: found.middle, low, high, held, verdict, columns, means, own, reported };
  }

  /* How often each verdict comes out over all first seeds and, of a measure on the slice, all rulers. */
  function countVerdicts(claim, many) {
    const counts = { reproduced: 0, compatible: 0, "not reproduced": 0 };
    for (let ruler = 0; ruler < rulersOf(claim); ruler++) {
      for (let first = 0; first < RUNS.seeds; first++) counts[judge(claim, ruler, first, many).verdict]++;
    }
    return counts;
  }

  if (RUNS) {
    LESSONS.evidence = {
      plane: { low: [0, 0], high: [1, 0.86] },
      controls: [
        {
          name: "claim", label: "Claim", low: 0, high: RUNS.claims.length - 1, step: 1, start: 1,
          text: (v) => RUNS.claims[v].id,
        },
        { name: "many", label: "Runs", low: 3, high: RUNS.seeds, step: 1, start: 3, text: String },
        { name: "first", label: "First seed", low: 0, high: RUNS.seeds - 1, step: 1, start: 0, text: String },
        { ...gridOf(RUNS.rulers), start: 0 },
      ],
      legend: [
        ['<i class="bq-dot"></i>', "our runs"],
        [`<i class="bq-swatch bq-stroke" style="background:${D.FLOAT_COLOUR}"></i>`, "interval for one more run"],
        [`<i class="bq-swatch bq-stroke" style="background:${D.QUANTIZED_COLOUR}"></i>`, "the paper's number"],
        ["<b>|</b>", "mean at a bit-width"],
      ],
      result: ({ claim, grid, first, many }) => ({ ...judge(claim, grid, first, many), counts: countVerdicts(claim, many) }),
      draw(view, store, { columns, means, own, low, high, reported }) {
        const every = [...columns.flatMap((column) => [...column]), reported, low, high];
        const [least, most] = [Math.min(...every), Math.max(...every)];
        const left = view.width < 420 ? 0.21 : 0.14; // beside the words
        const place = (value) => left + ((0.92 - left) * (value - least)) / (most - least || 1);
        const height = (row) => 0.79 - 0.1 * row;
        columns.forEach((column, row) => {
          const y = height(row);
          D.write(view, [0.01, y], `${RUNS.bits[row]} bits`, "left");
          if (row === own) D.line(view, [place(low), y - 0.036], [place(high), y - 0.036], D.FLOAT_COLOUR, 4);
          const inside = row !== own && low <= means[row] && means[row] <= high;
          column.forEach((value, i) => {
            D.dot(view, [place(value), y + 0.018 * Math.sin(2.4 * i)], row === own ? D.FLOAT_COLOUR : "#999999");
          });
          const colour = inside ? "#000000" : "#888888";
          D.line(view, [place(means[row]), y - 0.036], [place(means[row]), y + 0.036], colour, inside ? 3 : 1.5);
        });
        D.line(view, [place(reported), 0.12], [place(reported), 0.85], D.QUANTIZED_COLOUR, 2);
        for (const end of [low, high]) D.line(view, [place(end), 0.12], [place(end), 0.85], D.FLOAT_COLOUR, 1, [3, 4]);
        const ticks = [least, (least + most) / 2, most];
        ticks.forEach((value) => D.write(view, [place(value), 0.05], fixed(value)));
      },
      table: ({ middle, low, high, held, verdict, counts, reported }, { claim, many }) => [
        ["claim", RUNS.claims[claim].id],
        ["about", RUNS.claims[claim].short],
        ["the paper's number", fixed(reported, 4)],
        [`ours, from ${many} runs`, fixed(middle, 4)],
        ["interval for one more run", `${fixed(low)} to ${fixed(high)}`],
        ["bit-widths whose mean is inside too", held.join(", ") || "none"],
        ["verdict", `<b>${verdict}</b>`],
        ...Object.entries(counts).map(([name, count], i, all) =>
          [`${i ? "" : "over all seeds and rulers: "}${name}`, `${count} of ${all.reduce((sum, one) => sum + one[1], 0)}`]),
      ],
      say: ({ verdict, low, high, held }, { claim, many, grid }) => `${RUNS.claims[claim].id} from ${many} runs` +
        `${rulersOf(claim) > 1 ? ` on ${RUNS.rulers[grid]} nodes a side` : ""}: the interval is ${fixed(low)} to ` +
        `${fixed(high)}, and the claim is ${verdict}${verdict === "compatible" ? `, as ${held.join(" and ")} bits would be` : ""}.`,
    };
  }

  // ---- one frame for all of them -----------------------------------------------------------------------------------

  function mount(root) {
    const name = root.dataset.lesson;
    const lesson = LESSONS[name];
    const values = Object.fromEntries(lesson.controls.map((control) => [control.name, control.start]));
    const store = {};
    const id = (part) => `bq-${name}-${part}`;
    const sliders = lesson.controls.map((c) =>
      `<div><label for="${id(c.name)}">${c.label}: <output for="${id(c.name)}"></output></label>
      <input type="range" id="${id(c.name)}" name="${c.name}" min="${c.low}" max="${c.high}" step="${c.step}"></div>`).join("");
    const legend = lesson.legend.map(([mark, text]) => `<span>${mark}${text}</span>`).join("");
    root.innerHTML = `<div class="bq-sliders">${sliders}</div>
      <div class="bq-stage"><figure class="bq-slice"><canvas role="img"></canvas><figcaption>${legend}</figcaption></figure>
      <div class="bq-readings"><table><thead></thead><tbody></tbody></table></div></div>
      <p class="bq-summary" role="status" aria-live="polite"></p>`;
    const [canvas, table, summary] = ["canvas", "table", ".bq-summary"].map((part) => root.querySelector(part));
    let timer = 0;
    let found = null;

    function show() {
      lesson.controls.forEach((control) => {
        const input = root.querySelector(`[name=${control.name}]`);
        const text = control.text(values[control.name]);
        input.value = values[control.name];
        input.setAttribute("aria-valuetext", text);
        input.parentElement.querySelector("output").textContent = text;
      });
      found = lesson.result(values);
      draw();
      const [head, ...rows] = lesson.table(found, values);
      table.tHead.innerHTML = `<tr>${head.map((cell) => `<th scope="col">${cell}</th>`).join("")}</tr>`;
      table.tBodies[0].innerHTML = rows.map(([name, ...cells]) =>
        `<tr><th scope="row">${name}</th>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`).join("");
      const text = lesson.say(found, values);
      canvas.setAttribute("aria-label", text);
      clearTimeout(timer); // spoken when the slider rests
      timer = setTimeout(() => (summary.textContent = text), 400);
    }

    function draw() {
      const view = D.fit(canvas, lesson.plane);
      lesson.draw(view, store, found, values);
    }

    root.addEventListener("input", ({ target }) => {
      values[target.name] = Number(target.value);
      show();
    });
    if ("x1" in values) {
      canvas.addEventListener("click", (event) => {
        const box = canvas.getBoundingClientRect();
        const place = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
        [values.x1, values.x2] = place.map((share) => Math.round(20 * (2 * share - 1)) / 20);
        show();
      });
    }
    show();
    if (window.ResizeObserver) new ResizeObserver(draw).observe(canvas.parentElement);
    return {
      values, result: () => found,
      set(given) {
        Object.assign(values, given);
        show();
        return found;
      },
    };
  }

  window.bqLessons = Object.fromEntries(
    [...document.querySelectorAll(".bq-lesson")].map((root) => [root.dataset.lesson, mount(root)]),
  );
})();
