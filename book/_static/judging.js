/*
Each claim in one specification of the multiverse, judged as studies.multiverse.judging and cifar_claims do; a test compares
every verdict, interval and count with theirs. A data set comes as a script that studies.alternatives writes. A
specification has, for each choice, the index of a value; what was not measured has no result (null).
*/
"use strict";
window.bqJudging = (() => {
  const ROUNDING = 1e-12; // as in bqcore.quantizers.bit_selection: a share may equal its limit
  const DIRECTIONS = { mnist: "S5", "fashion-mnist": "S6" };
  const FROM_0_TO_1 = "D1 D2 D3 D4 S1 S2 S3 S4 C2 C3 C5 C6 F2 F3 R1 R2 R3 R4".split(" ");
  const SEEN = { "held-out PCA": "calibration PCA" }; // the slice that a rule looks at, where the claim is on another
  const COUNTS = ["J2", "J3", "J4"];
  const OWN = COUNTS.map((id) => `transition ${id}`); // each has a transition of its own

  // ---- data --------------------------------------------------------------------------------------------------------

  /* Unpack a data set: its arrays, its choices, and what judges each of its claims, by name. */
  async function open(name, raw) {
    const bytes = await window.bqGeometry.inflate(raw.bytes);
    const data = { name, axes: { ...raw.axes }, rules: raw.rules, quantile: raw.quantile, tooWide: raw.tooWide };
    let start = 0;
    data.arrays = Object.fromEntries(Object.entries(raw.arrays).map(([key, about]) => {
      const array = unpack(bytes, start, about, raw.axes);
      start += about.planes * array.values.length;
      return [key, array];
    }));
    if (data.axes.transition) {
      OWN.forEach((axis, i) => {
        data.axes[axis] = { ...raw.axes.transition, title: `transition of ${COUNTS[i]}`, baseline: i };
      });
    }
    data.claims = claimsOf(data, raw.claims);
    const used = new Set(Object.values(data.claims).flatMap((claim) => claim.axes));
    data.axes = Object.fromEntries(Object.entries(data.axes).filter(([axis]) => used.has(axis)));
    data.baseline = Object.fromEntries(Object.entries(data.axes).map(([axis, { baseline }]) => [axis, baseline]));
    return data;
  }

  function unpack(bytes, start, { dims, scale, least, missing, planes, single }, axes) {
    const size = dims.reduce((product, [, values]) => product * values.length, 1);
    const values = new (single ? Float32Array : Float64Array)(size);
    for (let i = 0; i < size; i++) {
      let code = 0;
      for (let p = planes - 1; p >= 0; p--) code = 256 * code + bytes[start + p * size + i];
      values[i] = code === missing ? NaN : (code + least) / scale;
    }
    let stride = size;
    const described = dims.map(([dim, here]) => {
      stride /= here.length;
      const places = axes[dim] && axes[dim].values.map((value) => here.indexOf(value));
      return { dim, values: here, stride, places };
    });
    const levels = described.find((one) => one.dim === "bits");
    return { values, dims: described.slice(0, -1), seeds: dims.at(-1)[1].length, levelStride: levels && levels.stride };
  }

  const along = (array, dim) => array.dims.find((one) => one.dim === dim);
  const indexOf = (array, dim, value) => along(array, dim).values.indexOf(value);
  const choicesOf = (array, at) => array.dims.map(({ dim }) => dim).filter((dim) => !(dim in at));

  /*
  Return what says where the seeds of a specification begin, negative if not measured. *at* has what is no choice: a place,
  the name of another choice, or the places of the choice's values.
  */
  function locator(array, at) {
    let base = 0;
    const free = [];
    for (const { dim, stride, places } of array.dims) {
      const given = at[dim];
      if (typeof given === "number") base += given * stride;
      else free.push({ axis: typeof given === "string" ? given : dim, offsets: (Array.isArray(given) ? given : places)
        .map((i) => i * stride) });
    }
    return (spec) => {
      let found = base;
      for (let i = 0; i < free.length; i++) {
        const offset = free[i].offsets[spec[free[i].axis]];
        if (offset < 0) return -1;
        found += offset;
      }
      return found;
    };
  }

  /* Return what reads the seeds of a specification; null if one was not measured. */
  function reader(array, at) {
    const start = locator(array, at);
    return (spec) => {
      const from = start(spec);
      if (from < 0) return null;
      const values = array.values.subarray(from, from + array.seeds);
      return values.some(Number.isNaN) ? null : values;
    };
  }

  // ---- statistics --------------------------------------------------------------------------------------------------

  /* The median of what is there; NaN of nothing. */
  function median(values) {
    const sorted = [...values].filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
    return sorted.length ? (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2 : NaN;
  }

  /* Return how far the medians over seeds lie apart along *dim*, worked out once. */
  function ranger(array, at, dim) {
    const start = locator(array, { ...at, [dim]: 0 });
    const { stride, values } = along(array, dim);
    const known = new Map();
    return (spec) => {
      const from = start(spec);
      if (!known.has(from)) {
        const medians = values.map((_, i) => median(array.values.subarray(from + i * stride, from + i * stride + array.seeds)));
        const there = medians.filter((value) => !Number.isNaN(value));
        known.set(from, Math.max(...there) - Math.min(...there));
      }
      return known.get(from);
    };
  }

  function meanOf(values) {
    let sum = 0;
    let count = 0;
    for (const value of values) {
      if (Number.isNaN(value)) continue;
      sum += value;
      count++;
    }
    return [sum / count, count];
  }

  /* Student's prediction interval of the mean of *of* networks; of the true mean, if that is Infinity. */
  function interval(data, values, of) {
    const [estimate, count] = meanOf(values);
    let squares = 0;
    for (const value of values) if (!Number.isNaN(value)) squares += (value - estimate) ** 2;
    const n = values.length;
    const half = data.quantile[n] * Math.sqrt(squares / (count - 1)) * Math.sqrt(1 / of + 1 / n);
    return { estimate, low: estimate - half, high: estimate + half, values };
  }

  function correlation(first, second, without, seeds) {
    const there = [];
    for (let i = 0; i < first.length; i++) {
      if (i % seeds !== without && !Number.isNaN(first[i] + second[i])) there.push(i);
    }
    const [a, b] = [first, second].map((values) => meanOf(there.map((i) => values[i]))[0]);
    let [ab, aa, bb] = [0, 0, 0];
    for (const i of there) {
      ab += (first[i] - a) * (second[i] - b);
      aa += (first[i] - a) ** 2;
      bb += (second[i] - b) ** 2;
    }
    return Math.atanh(Math.min(ab / Math.sqrt(aa * bb), 1 - 1e-9));
  }

  // ---- what each claim is held to ----------------------------------------------------------------------------------

  /* A number, inside an interval that is not wider than a part of *span*, if there is one. */
  function judgeNumber(data, claim, values, span) {
    const found = interval(data, values, claim.means_of);
    if (claim.clip) [found.low, found.high] = [Math.max(found.low, 0), Math.min(found.high, 1)];
    found.inside = found.low <= claim.reported && claim.reported <= found.high;
    found.holds = found.inside && (span === null || found.high - found.low <= data.tooWide * span);
    return found;
  }

  function judgeDirection(data, claim, values) {
    const found = interval(data, values, Infinity);
    return { ...found, inside: found.high > 0, holds: found.low > 0 };
  }

  function judgeNoGain(data, claim, values, span) {
    const found = interval(data, values, Infinity);
    found.inside = found.low <= 0;
    found.holds = found.inside && found.high < claim.bound * (claim.bound_of === "first" ? span : 1);
    return found;
  }

  const judgeOf = ({ kind, reported }) =>
    kind === "no gain" ? judgeNoGain : typeof reported === "number" ? judgeNumber : judgeDirection;

  const minus = (first, second) => first.map((value, i) => value - second[i]);

  /* A recipe is what a claim depends on, and its measure in a specification: [a value for each seed, the span]. */
  function atLevel(name, dim, level, axis) {
    return ({ arrays: { [name]: array } }) => {
      const at = { [dim]: axis || indexOf(array, dim, level) };
      const [values, span] = [reader(array, at), ranger(array, at, dim)];
      const measure = (spec) => {
        const found = values(spec);
        return found && [found, span(spec)];
      };
      return { axes: [...choicesOf(array, at), ...(axis ? [axis] : [])], measure };
    };
  }

  /* R1 to R4: a rounding at 4 bits, with the gap term or without, against how far the roundings without it lie apart. */
  function rounded(kind, name) {
    return ({ arrays: { [`${kind} ${name}`]: array, [`plain ${name}`]: plain } }) => {
      const at = { bits: indexOf(array, "bits", 4) };
      const [values, span] = [reader(array, at), ranger(plain, at, "method")];
      const measure = (spec) => {
        const found = values(spec);
        return found && [found, span(spec)];
      };
      return { axes: choicesOf(array, at), measure };
    };
  }

  /* R5 to R8: what the gap term takes off at some bits, or, of *sign* −1, what it adds. */
  function taken(name, bits, sign) {
    return ({ arrays: { [`gap ${name}`]: gap, [`plain ${name}`]: plain } }, { kind }) => {
      const at = { bits: indexOf(gap, "bits", bits) };
      const [added, usual] = [reader(gap, at), reader(plain, { ...at, method: indexOf(plain, "method", "logits") })];
      const measure = (spec) => {
        const [first, second] = [usual(spec), added(spec)];
        if (!first || !second) return null;
        return [sign > 0 ? minus(first, second) : minus(second, first), kind === "no gain" ? meanOf(first)[0] : null];
      };
      return { axes: choicesOf(gap, at), measure };
    };
  }

  /* J1: the share of changed cells at junctions, less that of the boundary's cells; by the first, it must be most. */
  function junctions(data, claim, id) {
    const [near, chance] = [data.arrays.share_near, data.arrays.chance_boundary];
    const [nearAt, chanceAt] = [locator(near, {}), locator(chance, {})];
    const seeds = (array, start) => array.values.subarray(start, start + array.seeds);
    return {
      axes: choicesOf(near, {}),
      ...(id === "J1" ? { short: "changed cells at junctions: most, and above chance" } : {}),
      judge(spec) {
        const shares = seeds(near, nearAt(spec)); // undefined where nothing changes, which does not hold
        const found = judgeDirection(data, claim, minus(shares, seeds(chance, chanceAt(spec))));
        if (id === "J1-chance") return found;
        const share = interval(data, shares, 1);
        const inside = found.inside && share.high >= claim.most;
        return { ...found, inside, holds: inside && found.holds && share.low > claim.most };
      },
    };
  }

  /* K1 and K2: calibration against held-out Jaccard over seeds and bit-widths, with a jackknife over seeds. */
  function correlated(data, claim) {
    const array = data.arrays.boundary_jaccard;
    const slices = ["calibration PCA", "held-out PCA"].map((plane) =>
      locator(array, { bits: 0, plane: indexOf(array, "plane", plane) }));
    const { stride, values: levels } = along(array, "bits");
    const n = array.seeds;
    return {
      axes: choicesOf(array, { bits: 0, plane: 0 }),
      judge(spec) {
        const starts = slices.map((start) => start(spec));
        if (starts[0] < 0) return null;
        const [first, second] = starts.map((start) => levels.flatMap((_, i) =>
          [...array.values.subarray(start + i * stride, start + i * stride + n)]));
        const z = correlation(first, second, -1, n);
        if (Number.isNaN(z)) return null;
        const left = Array.from({ length: n }, (_, seed) => correlation(first, second, seed, n));
        const [middle] = meanOf(left);
        const squares = left.filter((one) => !Number.isNaN(one)).reduce((sum, one) => sum + (one - middle) ** 2, 0);
        const half = data.quantile[n] * Math.sqrt(((n - 1) / n) * squares);
        const [estimate, low, high] = [z, z - half, z + half].map(Math.tanh);
        const inside = low <= claim.reported && claim.reported <= high;
        return { estimate, low, high, inside, holds: inside && high - low <= 0.1, values: left.map(Math.tanh) };
      },
    };
  }

  // ---- bits that a rule chooses ------------------------------------------------------------------------------------

  /* Where the measures of a data set's stopping study are, what they are called, and what each rule looks at. */
  function stoppingOf({ arrays, axes, rules }) {
    const own = "stopping_loss" in arrays;
    const [seen, held] = own ? [{ part: 0 }, { part: 1 }] : [{ split: 0 }, { split: 1 }];
    const [loss, flips, band, jaccard] = own
      ? [arrays.stopping_loss, arrays.stopping_flip_rate, arrays.stopping_band_flip_rate, arrays.stopping_jaccard]
      : [arrays.accuracy_lost, arrays.flip_rate, arrays.band_flip_rate, arrays.boundary_jaccard];
    const other = own ? {} : { plane: axes.plane.values.map((plane) => indexOf(jaccard, "plane", SEEN[plane] || plane)) };
    const looked = (array, at, limit) => ({ array, start: locator(array, { ...at, bits: 0 }), limit });
    const looks = {
      drop: axes.drop.values.map((limit) => [looked(loss, seen, limit)]),
      rule: rules.map(({ limits, band: where }) => [
        ...("jaccard" in limits ? [looked(jaccard, own ? seen : other, limits.jaccard)] : []),
        ...("band" in limits ? [looked(band, { ...seen, ...placesOf(band, where) }, limits.band)] : []),
      ]),
    };
    return { held, heldJaccard: own ? held : {}, flips, jaccard, looks };
  }

  const placesOf = (array, named) =>
    Object.fromEntries(Object.entries(named).map(([dim, value]) => [dim, indexOf(array, dim, value)]));

  /* The level at which a seed stops: the last before a limit is first passed, or, of all, the last that passes none. */
  function chosen(looks, starts, path, seed, count) {
    let level = path ? count - 1 : 0;
    if (path) while (level > 0 && !fits(looks, starts, seed, level)) level--;
    else while (level < count && fits(looks, starts, seed, level)) level++;
    return path ? level : Math.max(level - 1, 0);
  }

  function fits(looks, starts, seed, level) {
    for (let i = 0; i < looks.length; i++) {
      const { array, limit } = looks[i];
      let rate = array.values[starts[i] + level * array.levelStride + seed];
      if (array.values instanceof Float32Array) rate = Math.round(rate * 1e7) / 1e7; // 6 of 120 is 0.05
      if (rate > limit + ROUNDING) return false;
    }
    return true;
  }

  /* What is held out ("flips", "jaccard" or "bits") where a rule stops: by "drop", the choice by accuracy, or by "rule". */
  function stopped(what, by) {
    return (data) => {
      const { held, heldJaccard, flips, jaccard, looks } = stoppingOf(data);
      const onRuler = by === "rule" || what === "jaccard";
      const [source, at] = what === "jaccard" ? [jaccard, heldJaccard] : [flips, held];
      const [start, slice] = [locator(source, { ...at, bits: 0 }), locator(jaccard, { ...heldJaccard, bits: 0 })];
      const span = ranger(source, at, "bits");
      const bits = along(flips, "bits").values;
      function measure(spec) {
        const from = start(spec);
        const ruled = onRuler ? slice(spec) : 0;
        if (from < 0 || ruled < 0) return null;
        const rule = looks[by][spec[by]];
        const starts = rule.map((one) => one.start(spec));
        const values = new Float64Array(source.seeds);
        for (let seed = 0; seed < values.length; seed++) {
          const level = chosen(rule, starts, spec.path, seed, bits.length);
          const found = source.values[from + level * source.levelStride + seed];
          if (Number.isNaN(found) || (onRuler && Number.isNaN(jaccard.values[ruled + level * jaccard.levelStride + seed]))) {
            return null;
          }
          values[seed] = what === "bits" ? bits[level] : found;
        }
        return [values, what === "bits" ? bits[0] - bits.at(-1) : span(spec)];
      }
      return { axes: [...choicesOf(onRuler ? jaccard : flips, { ...(onRuler ? heldJaccard : held), bits: 0 }), by, "path"], measure };
    };
  }

  /* S5 and S6: flips chosen by accuracy less those after stopping. */
  function reduction(data) {
    const [usual, aware] = ["drop", "rule"].map((by) => stopped("flips", by)(data));
    return {
      axes: [...new Set([...aware.axes, ...usual.axes])],
      measure(spec) {
        const [first, second] = [usual.measure(spec), aware.measure(spec)];
        return first && second && [minus(first[0], second[0]), null];
      },
    };
  }

  // ---- claims ------------------------------------------------------------------------------------------------------

  const SUBSET = {
    C1: stopped("bits", "drop"), C2: stopped("flips", "drop"), C3: stopped("jaccard", "drop"),
    C4: stopped("bits", "rule"), C5: stopped("flips", "rule"), C6: stopped("jaccard", "rule"),
    K1: correlated, K2: correlated,
  };
  const [JACCARD, ORDER, LOST] = ["boundary_jaccard", "band_pair_order_flip_rate", "accuracy_lost"];
  const RECIPES = {
    digits: {
      D1: atLevel("flip_rate", "bits", 8), D2: atLevel(JACCARD, "slice_bits", 8), D3: atLevel("accuracy", "bits", 4),
      D4: atLevel(JACCARD, "slice_bits", 4), D5: atLevel("displacement", "shift_bits", 4), J1: junctions, "J1-chance": junctions,
      ...Object.fromEntries(COUNTS.map((id, i) => [id, atLevel("junctions", "transition", null, OWN[i])])),
      S1: stopped("flips", "drop"), S2: stopped("flips", "rule"), S3: stopped("jaccard", "drop"), S4: stopped("jaccard", "rule"),
    },
    ...Object.fromEntries(Object.entries(DIRECTIONS).map(([name, id]) => [name, { [id]: reduction }])),
    "cifar-10": SUBSET,
    "full-cifar-10": {
      F1: atLevel(LOST, "bits", 6), F2: atLevel("flip_rate", "bits", 6), F3: atLevel("band_flip_rate", "bits", 6),
      R1: rounded("plain", JACCARD), R2: rounded("gap", JACCARD), R3: rounded("plain", ORDER), R4: rounded("gap", ORDER),
      R5: taken(LOST, 4, -1), "R6-jaccard": taken(JACCARD, 3, 1), "R6-flips": taken("flip_rate", 3, 1),
      "R6-band": taken("band_flip_rate", 3, 1), "R6-accuracy": taken(LOST, 3, 1), R7: taken(JACCARD, 4, 1), R8: taken(ORDER, 4, 1),
      K1: correlated, K2: correlated,
    },
  };

  /* What judges each claim that the multiverse of a data set has, in the ledger's order: axes and judge(spec). */
  function claimsOf(data, stated) {
    const found = {};
    for (const [id, about] of Object.entries(stated)) {
      const recipe = RECIPES[data.name][id];
      if (!recipe) continue;
      const claim = { ...about, id, clip: FROM_0_TO_1.includes(id) };
      const { measure, ...rest } = recipe(data, claim, id);
      const judge = (spec) => {
        const measured = measure(spec);
        return measured && judgeOf(claim)(data, claim, ...measured);
      };
      found[id] = { ...claim, judge, ...rest };
    }
    for (const [id, about] of Object.entries(stated)) {
      const parts = (about.together || []).map((name) => found[name]);
      if (!parts.length || !parts.every(Boolean)) continue;
      const ordered = about.together[0] === COUNTS[0];
      const judge = (spec) => together(parts, spec, ordered);
      found[id] = { ...about, id, axes: [...new Set(parts.flatMap((part) => part.axes))], judge };
    }
    return Object.fromEntries(Object.keys(stated).filter((id) => id in found).map((id) => [id, found[id]]));
  }

  /* Where all parts hold; three counts must be of transitions in their order. */
  function together(parts, spec, ordered) {
    if (ordered && !(spec[OWN[0]] < spec[OWN[1]] && spec[OWN[1]] < spec[OWN[2]])) return null;
    let [holds, inside] = [true, true];
    for (const part of parts) {
      const found = part.judge(spec);
      if (!found) return null;
      holds = holds && found.holds;
      inside = inside && found.inside;
    }
    return { holds, inside };
  }

  // ---- all specifications ------------------------------------------------------------------------------------------

  /* Go through all values of *axes* in one object, which changes. */
  function* specifications(data, axes) {
    const sizes = axes.map((axis) => data.axes[axis].values.length);
    const spec = { ...data.baseline, ...Object.fromEntries(axes.map((axis) => [axis, 0])) };
    for (;;) {
      yield spec;
      let i = axes.length - 1;
      while (i >= 0 && ++spec[axes[i]] === sizes[i]) spec[axes[i--]] = 0;
      if (i < 0) return;
    }
  }

  /*
  Count the specifications of a claim and those in which it holds; *pause* is awaited now and then, and true stops it. With
  all estimates, and, of those that hold, the specification that differs from the baseline in the fewest choices.
  */
  async function count(data, id, pause = () => false) {
    const { axes, judge } = data.claims[id];
    const out = { of: 0, holds: 0, inside: 0, estimates: [], held: [], nearest: null, changes: Infinity };
    let tried = 0;
    for (const spec of specifications(data, axes)) {
      if (++tried % 200 === 0 && (await pause())) return null;
      const found = judge(spec);
      if (!found) continue;
      out.of++;
      out.inside += found.inside;
      if (found.estimate !== undefined) out.estimates.push(found.estimate);
      if (!found.holds) continue;
      out.holds++;
      if (found.estimate !== undefined) out.held.push(found.estimate);
      const changes = axes.filter((axis) => spec[axis] !== data.baseline[axis]).length;
      if (changes < out.changes) [out.changes, out.nearest] = [changes, { ...spec }];
    }
    return out;
  }

  return { open, count, specifications };
})();
