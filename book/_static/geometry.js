/*
The measures of bqcore in plain JavaScript, for the explorer and the lessons. Names, order and rounding are those of
bqcore.quantizers.uniform, slices, boundary and decisions: weights are quantized and interpolated in float32 as torch does, slices
and logits are computed in float64, and tests/book/test_explorer_page.py compares every number with Python's.
*/
"use strict";
window.bqGeometry = (() => {
  const FLOAT = 32; // the bit-width that stands for the float classifier
  const { fround } = Math;
  const HALF_EVEN = 6755399441055744; // 1.5 · 2^52: adding and subtracting it rounds half to even

  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const floats = (text) => new Float32Array(bytesOf(text).buffer);
  const doubles = (text) => new Float64Array(bytesOf(text).buffer);

  /* The bytes of base 85, five letters for four of them, in the alphabet of RFC 1924 as Python has it. */
  const LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
  function bytesOf85(text) {
    const digits = new Uint8Array(128);
    for (let i = 0; i < 85; i++) digits[LETTERS.charCodeAt(i)] = i;
    const words = Math.ceil(text.length / 5);
    const view = new DataView(new ArrayBuffer(4 * words));
    for (let i = 0; i < words; i++) {
      let word = 0;
      for (let k = 5 * i; k < 5 * i + 5; k++) word = 85 * word + (k < text.length ? digits[text.charCodeAt(k)] : 84);
      view.setUint32(4 * i, word);
    }
    return new Uint8Array(view.buffer, 0, 4 * words - (5 * words - text.length));
  }

  /* The bytes of what gzip made smaller, written in base 85. */
  const inflate = async (text) => {
    const stream = new Blob([bytesOf85(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  // ---- quantize ----------------------------------------------------------------------------------------------------

  /* The narrow grid of *bits*: its top level, and the step that puts a part *kept* of the largest magnitude there. */
  function grid(weight, bits, kept = 1) {
    const top = 2 ** (bits - 1) - 1;
    let reach = 0;
    for (const w of weight) reach = Math.max(reach, Math.abs(w));
    return { top, step: reach > 0 ? Math.max(fround(fround(fround(kept) * reach) / top), 2 ** -126) : 1 };
  }

  /* The level of each weight: x · (1/step), ties to the even level, clipped to the grid. */
  function levels(weight, { top, step }) {
    const inverse = fround(1 / step);
    return weight.map((w) => Math.min(Math.max(fround(w * inverse) + HALF_EVEN - HALF_EVEN, -top), top) + 0);
  }

  /* Round each weight to the narrow grid of *bits*, one step for the tensor. */
  function quantize(weight, bits) {
    if (bits === FLOAT) return weight;
    const found = grid(weight, bits);
    return levels(weight, found).map((level) => level * found.step);
  }

  /* W(t) = (1 − t) W_a + t W_b, rounded to float32 after each operation; exact at both ends. */
  function mix(a, b, t) {
    const left = fround(1 - t);
    const right = fround(t);
    return a.map((w, i) => fround(left * w) + fround(right * b[i]));
  }

  /* A one-hidden-layer ReLU network at *bits*; biases stay in float. */
  const level = (net, bits) => ({ ...net, first: quantize(net.first, bits), second: quantize(net.second, bits) });

  /* Every parameter of two levels of one network, at *t* between them; the biases too are rounded on the way. */
  function interpolate(one, other, t) {
    const parts = ["first", "firstBias", "second", "secondBias"];
    return { ...one, ...Object.fromEntries(parts.map((part) => [part, mix(one[part], other[part], t)])) };
  }

  // ---- logits, radius, displacement --------------------------------------------------------------------------------

  /* Keep the values of each input that are not zero: many pixels are, and they add nothing. */
  function sparse(inputs, size) {
    return Array.from({ length: inputs.length / size }, (_, i) => {
      const row = inputs.subarray(i * size, (i + 1) * size);
      const places = [];
      row.forEach((value, d) => value !== 0 && places.push(d));
      return { places: Int32Array.from(places), values: Float64Array.from(places, (d) => row[d]) };
    });
  }

  function hiddenOf(net, input) {
    const { places, values } = input;
    const out = new Float64Array(net.hidden);
    for (let j = 0; j < net.hidden; j++) {
      let sum = net.firstBias[j];
      const row = j * net.inputs;
      for (let i = 0; i < places.length; i++) sum += net.first[row + places[i]] * values[i];
      out[j] = sum;
    }
    return out;
  }

  function logitsOf(net, input) {
    const hidden = hiddenOf(net, input);
    const out = new Float64Array(net.classes);
    for (let k = 0; k < net.classes; k++) {
      let sum = net.secondBias[k];
      for (let j = 0; j < net.hidden; j++) if (hidden[j] > 0) sum += net.second[k * net.hidden + j] * hidden[j];
      out[k] = sum;
    }
    return out;
  }

  /* The index of the largest value, the first on ties. */
  function argmax(values, except = -1) {
    let best = except === 0 ? 1 : 0;
    for (let k = best + 1; k < values.length; k++) if (k !== except && values[k] > values[best]) best = k;
    return best;
  }

  const topPair = (logits) => {
    const winner = argmax(logits);
    return [winner, argmax(logits, winner)];
  };

  /* The gradient of the margin z_a − z_b at an input, over all input values. */
  function gradient(net, input, a, b) {
    const hidden = hiddenOf(net, input);
    const out = new Float64Array(net.inputs);
    for (let j = 0; j < net.hidden; j++) {
      if (!(hidden[j] > 0)) continue;
      const slope = net.second[a * net.hidden + j] - net.second[b * net.hidden + j];
      const row = j * net.inputs;
      for (let d = 0; d < net.inputs; d++) out[d] += slope * net.first[row + d];
    }
    return out;
  }

  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const length = (vector) => Math.sqrt(dot(vector, vector));

  /* Local logit-margin radius: the least (z_c − z_j) / ‖∇(z_c − z_j)‖ over all rivals j of the winner c. */
  function radius(net, input) {
    const logits = logitsOf(net, input);
    const winner = argmax(logits);
    let found = { radius: Infinity, winner, rival: topPair(logits)[1] };
    logits.forEach((value, rival) => {
      if (rival === winner) return;
      const gap = logits[winner] - value;
      const distance = gap === 0 ? 0 : gap / length(gradient(net, input, winner, rival));
      if (distance < found.radius) found = { radius: distance, winner, rival };
    });
    return found;
  }

  /* How the boundary of the reference's top-2 pair changes, and the unit normal to it, away from the input. */
  function localChange(reference, candidate, input) {
    const before = logitsOf(reference, input);
    const after = logitsOf(candidate, input);
    const [a, b] = topPair(before);
    const one = gradient(reference, input, a, b);
    const other = gradient(candidate, input, a, b);
    const [size, otherSize] = [length(one), length(other)];
    const chord = one.reduce((sum, g, d) => sum + (g / size - other[d] / otherSize) ** 2, 0);
    const [margin, moved] = [before, after].map((z) => z[a] - z[b]);
    return {
      displacement: size > 0 ? (moved - margin) / size : NaN,
      signedDistanceChange: size > 0 && otherSize > 0 ? moved / otherSize - margin / size : NaN,
      normalVariation: Math.min(chord / 2, 2),
      normal: one.map((g) => -g / size),
      winner: a,
      runnerUp: b,
    };
  }

  // ---- slices ------------------------------------------------------------------------------------------------------

  /* The n coordinates from *low* to *high*, ends included; those of n are every other one of 2n − 1. */
  function nodes(low, high, n) {
    return Float64Array.from({ length: n }, (_, i) => (1 - i / (n - 1)) * low + (i / (n - 1)) * high);
  }

  const steps = (plane, n) => [0, 1].map((i) => (plane.high[i] - plane.low[i]) / (n - 1));

  /* The plane through three points, or through two and *third*; its box reaches *padding* beyond them. */
  function planeThrough(p, q, r, padding = 0.5) {
    const away = (x, y) => Float64Array.from(x, (value, d) => value - y[d]);
    const u = away(q, p);
    const v = away(r, p);
    const along = length(u);
    const first = u.map((value) => value / along);
    const shadow = dot(v, first);
    const rest = v.map((value, d) => value - shadow * first[d]);
    const across = length(rest);
    if (!(along > 1e-9) || !(across > 1e-9)) return null; // they lie on one line
    const corners = [[0, along, shadow], [0, 0, across]];
    const low = corners.map((values) => Math.min(...values));
    const high = corners.map((values) => Math.max(...values));
    const margin = low.map((value, i) => padding * (high[i] - value));
    return {
      origin: Float64Array.from(p),
      axes: [first, rest.map((value) => value / across)],
      low: low.map((value, i) => value - margin[i]),
      high: high.map((value, i) => value + margin[i]),
    };
  }

  /* The slice coordinates of an input. */
  function project(plane, x) {
    return plane.axes.map((axis) => axis.reduce((sum, v, d) => sum + (x[d] - plane.origin[d]) * v, 0));
  }

  /*
  Label the n × n nodes of a plane, rows along b. The first layer is folded onto the plane, as in bqcore.metrics.masks; along a
  row the logits are then piecewise linear in a, with a bend where a hidden unit crosses zero, so that a node costs two
  operations a class instead of two a weight.
  */
  function sliceLabels(net, plane, n) {
    const { hidden, classes, second } = net;
    const fold = (vector) => Float64Array.from({ length: hidden }, (_, j) => {
      let sum = 0;
      for (let d = 0, row = j * net.inputs; d < net.inputs; d++) sum += vector[d] * net.first[row + d];
      return sum;
    });
    const [slopeA, slopeB] = plane.axes.map(fold);
    const offset = fold(plane.origin).map((sum, j) => sum + net.firstBias[j]);
    const columns = new Float64Array(hidden * classes);
    second.forEach((w, i) => (columns[(i % hidden) * classes + Math.floor(i / hidden)] = w));
    const a = nodes(plane.low[0], plane.high[0], n);
    const b = nodes(plane.low[1], plane.high[1], n);
    const h = (plane.high[0] - plane.low[0]) / (n - 1);
    const out = new Uint8Array(n * n);
    const rise = new Float64Array(classes);
    const base = new Float64Array(classes);
    const at = new Float64Array(hidden); // the units' values where a = 0
    const first = new Int32Array(n); // at each node the first unit to cross zero there, and at each unit the next
    const next = new Int32Array(hidden);
    const add = (j, sign) => {
      for (let k = 0, i = j * classes; k < classes; k++, i++) {
        rise[k] += sign * columns[i] * slopeA[j];
        base[k] += sign * columns[i] * at[j];
      }
    };
    for (let row = 0; row < n; row++) {
      rise.fill(0);
      base.set(net.secondBias);
      first.fill(-1);
      for (let j = 0; j < hidden; j++) {
        at[j] = b[row] * slopeB[j] + offset[j];
        if (a[0] * slopeA[j] + at[j] > 0) add(j, 1);
        const node = Math.floor((-at[j] / slopeA[j] - a[0]) / h) + 1;
        if (node >= 1 && node < n) {
          next[j] = first[node];
          first[node] = j;
        }
      }
      for (let i = 0, place = row * n; i < n; i++, place++) {
        for (let j = first[i]; j >= 0; j = next[j]) add(j, slopeA[j] > 0 ? 1 : -1);
        let best = 0;
        let most = rise[0] * a[i] + base[0];
        for (let k = 1; k < classes; k++) {
          const value = rise[k] * a[i] + base[k];
          if (value > most) {
            best = k;
            most = value;
          }
        }
        out[place] = best;
      }
    }
    return out;
  }

  /* Every stride-th node of an n × n grid. */
  function thin(labels, n, stride) {
    if (stride === 1) return labels;
    const m = (n - 1) / stride + 1;
    const out = new Uint8Array(m * m);
    for (let row = 0, i = 0; row < n; row += stride) {
      for (let column = 0; column < n; column += stride) out[i++] = labels[row * n + column];
    }
    return out;
  }

  /* The number of distinct labels on the four corners of each of the (n − 1)² cells. */
  function cornerClasses(labels, n) {
    const out = new Uint8Array((n - 1) * (n - 1));
    for (let row = 0, cell = 0; row < n - 1; row++) {
      for (let column = 0; column < n - 1; column++, cell++) {
        const i = row * n + column;
        const p = labels[i];
        const q = labels[i + 1];
        const r = labels[i + n];
        const s = labels[i + n + 1];
        out[cell] = 1 + (q !== p) + (r !== p && r !== q) + (s !== p && s !== q && s !== r);
      }
    }
    return out;
  }

  /* Boundary-mask Jaccard distance of two grids by their corner counts; 0 if neither has a boundary. */
  function jaccard(before, after) {
    let both = 0;
    let either = 0;
    for (let i = 0; i < before.length; i++) {
      both += before[i] > 1 && after[i] > 1;
      either += before[i] > 1 || after[i] > 1;
    }
    return either ? 1 - both / either : 0;
  }

  const effectiveDisplacement = (distance, [ha, hb]) => ((2 * (ha + hb)) / Math.PI) * (distance / (2 - distance));

  /* The cells with a corner whose label differs between two grids of n × n nodes. */
  function changedCells(before, after, n) {
    const out = new Uint8Array((n - 1) * (n - 1));
    for (let row = 0, cell = 0; row < n - 1; row++) {
      for (let column = 0; column < n - 1; column++, cell++) {
        const i = row * n + column;
        if (before[i] !== after[i] || before[i + 1] !== after[i + 1] ||
          before[i + n] !== after[i + n] || before[i + n + 1] !== after[i + n + 1]) out[cell] = 1;
      }
    }
    return out;
  }

  /* How many of the values are at least *least*; true is 1. */
  function count(values, least = 1) {
    let sum = 0;
    for (let i = 0; i < values.length; i++) if (values[i] >= least) sum++;
    return sum;
  }

  /* What two label grids on one plane differ by. */
  function compare(before, after, n, plane) {
    const [one, other] = [cornerClasses(before, n), cornerClasses(after, n)];
    const distance = jaccard(one, other);
    let moved = 0;
    for (let i = 0; i < before.length; i++) if (before[i] !== after[i]) moved++;
    return {
      nodes: n,
      jaccard: distance,
      effectiveDisplacement: effectiveDisplacement(distance, steps(plane, n)),
      gridChange: moved / before.length,
      changedCells: count(changedCells(before, after, n)),
      boundaryCells: count(other, 2),
      junctions: count(other, 3),
    };
  }

  /*
  Where a slice reconfigures along a path of label grids, as bqcore.metrics.masks.transition: junction cells at some step,
  changed cells, and what share of changed, visited and rearranged cells lies within one cell of a junction.
  */
  function transition(path, n) {
    const corners = path.map((labels) => cornerClasses(labels, n));
    const sets = path.map((labels) => classSets(labels, n));
    const m = n - 1;
    const [union, changedAtAll] = [new Uint8Array(m * m), new Uint8Array(m * m)];
    corners.forEach((counts) => counts.forEach((classes, i) => classes >= 3 && (union[i] = 1)));
    const total = { changed: 0, visited: 0, rearranged: 0, changedNear: 0, visitedNear: 0, rearrangedNear: 0 };
    for (let step = 1; step < path.length; step++) {
      const changed = changedCells(path[step - 1], path[step], n);
      const [before, after] = [corners[step - 1], corners[step]];
      const near = widen(before.map((classes, i) => (classes >= 3 || after[i] >= 3 ? 1 : 0)), m);
      changed.forEach((moved, i) => {
        const kinds = {
          changed: moved, visited: moved || before[i] > 1 || after[i] > 1,
          rearranged: before[i] > 1 && after[i] > 1 && sets[step - 1][i] !== sets[step][i],
        };
        if (moved) changedAtAll[i] = 1;
        for (const kind of Object.keys(kinds)) {
          if (kinds[kind]) total[kind]++;
          if (kinds[kind] && near[i]) total[`${kind}Near`]++;
        }
      });
    }
    return {
      union: count(union), changed: count(changedAtAll), rearranged: total.rearranged,
      shareNear: total.changedNear / total.changed, chanceBoundary: total.visitedNear / total.visited,
      shareRearrangedNear: total.rearrangedNear / total.rearranged,
    };
  }

  /* The set of classes on each cell's corners, a bit for each class. */
  function classSets(labels, n) {
    return Uint32Array.from({ length: (n - 1) * (n - 1) }, (_, cell) => {
      const i = Math.floor(cell / (n - 1)) * n + (cell % (n - 1));
      return (1 << labels[i]) | (1 << labels[i + 1]) | (1 << labels[i + n]) | (1 << labels[i + n + 1]);
    });
  }

  /* Mark the cells of an m × m grid that are marked or have a marked one among their eight neighbours. */
  function widen(cells, m) {
    const out = new Uint8Array(m * m);
    cells.forEach((marked, i) => {
      if (!marked) return;
      const [row, column] = [Math.floor(i / m), i % m];
      for (let r = Math.max(row - 1, 0); r <= Math.min(row + 1, m - 1); r++) {
        for (let c = Math.max(column - 1, 0); c <= Math.min(column + 1, m - 1); c++) out[r * m + c] = 1;
      }
    });
    return out;
  }

  // ---- decisions ---------------------------------------------------------------------------------------------------

  const median = (values) => {
    const sorted = Float64Array.from(values).sort();
    const middle = sorted.length >> 1;
    return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  };

  const marginOf = (logits) => {
    const [a, b] = topPair(logits);
    return logits[a] - logits[b];
  };

  /* The ⌈share · N⌉ inputs of smallest margin, the earlier first on ties. */
  function boundaryBand(logits, share = 0.2) {
    const margins = logits.map(marginOf);
    const order = margins.map((_, i) => i).sort((i, j) => margins[i] - margins[j] || i - j);
    return order.slice(0, Math.max(1, Math.ceil(Number((share * logits.length).toFixed(9)))));
  }

  return {
    FLOAT, bytesOf, floats, doubles, inflate, grid, levels, quantize, mix, level, interpolate, sparse, hiddenOf,
    logitsOf, argmax, topPair, gradient, dot, length, radius, localChange, nodes, steps, planeThrough, project,
    sliceLabels, thin, cornerClasses, jaccard, effectiveDisplacement, changedCells, count, compare, transition,
    median, marginOf, boundaryBand,
  };
})();
