/* What the explorer and the lessons draw with: the colours of studies.figures.style, strokes that stand out on any region. */
"use strict";
window.bqDrawing = (() => {
  const CLASS_COLOURS = [
    "#77aadd", "#eedd88", "#ffaabb", "#44bb99", "#dddddd", "#ee8866", "#bbcc33", "#99ddff", "#aaaa00", "#c9b3e6",
  ];
  const [FLOAT_COLOUR, QUANTIZED_COLOUR, BOTH_COLOUR] = ["#0072b2", "#d55e00", "#1a1a1a"];
  const HALO = "rgba(255, 255, 255, 0.9)";
  const channels = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  const PALETTE = CLASS_COLOURS.map(channels);
  const MASKS = [FLOAT_COLOUR, QUANTIZED_COLOUR, BOTH_COLOUR].map(channels);

  /* Paint a grid of size × size, row 0 at the bottom, into a small canvas of *store*; *colour* gives three or none. */
  function sheet(store, name, size, colour) {
    const small = (store[name] = store[name] || document.createElement("canvas"));
    if (small.width !== size) small.width = small.height = size;
    const pen = small.getContext("2d");
    const image = pen.createImageData(size, size);
    for (let row = 0, i = 0; row < size; row++) {
      for (let column = 0; column < size; column++, i++) {
        const found = colour(i);
        if (!found) continue;
        const place = 4 * ((size - 1 - row) * size + column);
        [image.data[place], image.data[place + 1], image.data[place + 2]] = found;
        image.data[place + 3] = 255;
      }
    }
    pen.putImageData(image, 0, 0);
    return small;
  }

  /* The colour of a cell by whether the first and the second mask have it. */
  const maskColour = (first, second) => MASKS[(first > 1 ? 1 : 0) + (second > 1 ? 2 : 0) - 1];

  /* Fit a plane's box into a canvas as wide as its place on the page; *view* gives pixels of the page. */
  function fit(canvas, plane, tallest = 1.25) {
    const wide = [0, 1].map((i) => plane.high[i] - plane.low[i]);
    const width = canvas.clientWidth || 320;
    const scale = Math.min(width / wide[0], (tallest * width) / wide[1]);
    const dense = window.devicePixelRatio || 1;
    const height = Math.round(scale * wide[1]);
    const left = (width - scale * wide[0]) / 2;
    if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
      canvas.width = Math.round(width * dense);
      canvas.height = Math.round(height * dense);
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(dense, 0, 0, dense, 0, 0);
    context.fillStyle = "#ffffff";
    context.fillRect(0, 0, width, height);
    return {
      context, width, height, scale, plane,
      x: (a) => left + scale * (a - plane.low[0]), y: (b) => height - scale * (b - plane.low[1]),
    };
  }

  /* Put a sheet over the box, reaching *half* a step beyond it: half for nodes, none for cells. */
  function stamp(view, image, steps, half, context = view.context) {
    const { low, high } = view.plane;
    const [ha, hb] = steps.map((h) => half * h);
    const [x, y] = [view.x(low[0] - ha), view.y(high[1] + hb)];
    context.imageSmoothingEnabled = false;
    context.drawImage(image, x, y, view.x(high[0] + ha) - x, view.y(low[1] - hb) - y);
  }

  /* Stripe the marked cells of an (n − 1)² grid. */
  function stripes(view, store, cells, n) {
    const canvas = view.context.canvas;
    const layer = (store.layer = store.layer || document.createElement("canvas"));
    layer.width = canvas.width;
    layer.height = canvas.height;
    const pen = layer.getContext("2d");
    pen.setTransform(view.context.getTransform());
    stamp(view, sheet(store, "stripes", n - 1, (i) => cells[i] && [0, 0, 0]), [0, 0], 0, pen);
    pen.globalCompositeOperation = "source-in";
    pen.strokeStyle = "rgba(60, 0, 90, 0.75)";
    pen.lineWidth = 2;
    pen.beginPath();
    for (let s = -view.height; s < view.width; s += 5) {
      pen.moveTo(s, view.height);
      pen.lineTo(s + view.height, 0);
    }
    pen.stroke();
    view.context.drawImage(layer, 0, 0, view.width, view.height);
  }

  /* A circle of *size* pixels around a place on the plane. */
  function ring(view, [a, b], size, colour, width, dash = []) {
    const { context } = view;
    context.setLineDash(dash);
    for (const [stroke, extra] of [[HALO, 2], [colour, 0]]) {
      context.beginPath();
      context.arc(view.x(a), view.y(b), size, 0, 2 * Math.PI);
      context.strokeStyle = stroke;
      context.lineWidth = width + extra;
      context.stroke();
    }
    context.setLineDash([]);
  }

  /* Circle the junction cells of a grid of corner counts. */
  function junctions(view, corners, n, size = 5) {
    const { low, high } = view.plane;
    const [ha, hb] = [0, 1].map((i) => (high[i] - low[i]) / (n - 1));
    corners.forEach((classes, cell) => {
      if (classes < 3) return;
      const place = [low[0] + ((cell % (n - 1)) + 0.5) * ha, low[1] + (Math.floor(cell / (n - 1)) + 0.5) * hb];
      ring(view, place, size, "#000000", 1.4);
    });
  }

  function line(view, from, to, colour, width = 2.5, dash = []) {
    const { context } = view;
    for (const [stroke, extra] of [[HALO, 2.5], [colour, 0]]) {
      context.setLineDash(extra ? [] : dash);
      context.beginPath();
      context.moveTo(view.x(from[0]), view.y(from[1]));
      context.lineTo(view.x(to[0]), view.y(to[1]));
      context.strokeStyle = stroke;
      context.lineWidth = width + extra;
      context.stroke();
    }
    context.setLineDash([]);
  }

  function arrow(view, from, to, colour) {
    const { context } = view;
    line(view, from, to, colour);
    const [x, y] = [view.x(to[0]), view.y(to[1])];
    const angle = Math.atan2(y - view.y(from[1]), x - view.x(from[0]));
    context.beginPath();
    context.moveTo(x + 5 * Math.cos(angle), y + 5 * Math.sin(angle));
    for (const turn of [2.4, -2.4]) context.lineTo(x + 9 * Math.cos(angle + turn), y + 9 * Math.sin(angle + turn));
    context.closePath();
    context.fillStyle = colour;
    context.strokeStyle = HALO;
    context.lineWidth = 1.2;
    context.stroke();
    context.fill();
  }

  /* A small dot that lets others shine through. */
  function dot(view, [a, b], colour) {
    const { context } = view;
    context.globalAlpha = 0.55;
    context.fillStyle = colour;
    context.beginPath();
    context.arc(view.x(a), view.y(b), 3, 0, 2 * Math.PI);
    context.fill();
    context.globalAlpha = 1;
  }

  /* Write a few words at a place of the plane, in the middle or to its right. */
  function write(view, [a, b], text, align = "center") {
    const { context } = view;
    context.font = "600 14px system-ui, sans-serif";
    context.textAlign = align;
    context.textBaseline = "middle";
    context.lineWidth = 3;
    context.strokeStyle = "rgba(255, 255, 255, 0.85)";
    context.strokeText(text, view.x(a), view.y(b));
    context.fillStyle = "#222222";
    context.fillText(text, view.x(a), view.y(b));
  }

  /* The node of each region of 1 % or more that is farthest from other regions and the edge: its letter's place. */
  function deepest(labels, n) {
    const depth = new Uint8Array(n * n);
    const least = (i, others) => Math.min(...others.map((j) => (labels[j] === labels[i] ? depth[j] : 0))) + 1;
    const inside = (i) => i % n > 0 && i % n < n - 1 && i >= n && i < n * (n - 1);
    for (let i = 0; i < n * n; i++) depth[i] = inside(i) ? least(i, [i - 1, i - n, i - n - 1, i - n + 1]) : 1;
    for (let i = n * n - 1; i >= 0; i--) {
      if (inside(i)) depth[i] = Math.min(depth[i], least(i, [i + 1, i + n, i + n + 1, i + n - 1]));
    }
    const seen = new Uint8Array(n * n);
    const found = [];
    for (let start = 0; start < n * n; start++) {
      if (seen[start]) continue;
      const queue = [start];
      let best = start;
      seen[start] = 1;
      for (let k = 0; k < queue.length; k++) {
        const i = queue[k];
        if (depth[i] > depth[best]) best = i;
        for (const j of [i % n > 0 ? i - 1 : -1, i % n < n - 1 ? i + 1 : -1, i - n, i + n]) {
          if (j >= 0 && j < n * n && !seen[j] && labels[j] === labels[i]) {
            seen[j] = 1;
            queue.push(j);
          }
        }
      }
      if (queue.length >= 0.01 * n * n) found.push({ label: String(labels[start]), node: best });
    }
    return found;
  }

  /* Write each large region's class into it: colour alone would not do. */
  function letters(view, labels, n) {
    const { low, high } = view.plane;
    for (const { label, node } of deepest(labels, n)) {
      const share = [(node % n) / (n - 1), Math.floor(node / n) / (n - 1)];
      write(view, share.map((t, i) => low[i] + t * (high[i] - low[i])), label);
    }
  }

  /* Load a script, which a page that was opened as a file can do too. */
  const loadScript = (address) => new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = address;
    [script.onload, script.onerror] = [done, failed];
    document.head.append(script);
  });

  /* For what catches it: nothing, where a script could not be loaded; any other fault is one. */
  function unloaded(fault) {
    if (!(fault instanceof Event)) throw fault;
    return null;
  }

  return {
    CLASS_COLOURS, FLOAT_COLOUR, QUANTIZED_COLOUR, BOTH_COLOUR, PALETTE, sheet, maskColour, fit, stamp, stripes, ring,
    junctions, line, arrow, dot, write, letters, loadScript, unloaded,
  };
})();
