// An opened sample: its views side by side; a chosen patch, its epipolar lines and what it attended to.
"use strict";

(function () {
  const { element, number } = report;
  const UNITS = 1000; // of all drawings over a picture, in both directions
  const WORDS = { fail: "Defective", pass: "Good", undecided: "Undecided" };
  const waiting = new Map();
  const received = new Map();

  /** Called by samples/<n>.js. */
  report.receive = function (n, content) {
    received.set(n, content);
    (waiting.get(n) || []).forEach((done) => done(content));
    waiting.delete(n);
  };

  /** The content of samples/<n>.js, or null where the file is missing. */
  function load(n) {
    if (received.has(n)) return Promise.resolve(received.get(n));
    return new Promise((done) => {
      if (waiting.has(n)) {
        waiting.get(n).push(done);
        return;
      }
      waiting.set(n, [done]);
      const script = element("script", { src: `samples/${n}.js` });
      script.onerror = () => {
        (waiting.get(n) || []).forEach((tell) => tell(null));
        waiting.delete(n);
        script.remove();
      };
      document.body.append(script);
    });
  }

  /** Fills `place` with the views of a sample of the list. */
  report.showSample = async function (sample, place) {
    if (!sample.pictured) {
      place.append(element("p", { class: "note" }, "The report holds the pictures of the first 1,000 samples of its "
        + "own order; this one is in images.csv and maps/."));
      return;
    }
    const content = await load(sample.n);
    if (!place.isConnected) return;
    if (content === null) {
      place.append(element("p", { class: "note" }, `samples/${sample.n}.js is missing: this folder is not whole.`));
      return;
    }
    const made = new Sample(sample, content, place);
    place.repaint = () => made.paint();
    made.show();
  };

  /** The part of the line l in the unit square, [x1, y1, x2, y2]; null where it passes by. */
  function clip([a, b, c]) {
    const ends = [];
    for (const edge of [0, 1]) {
      if (b !== 0) ends.push([edge, -(a * edge + c) / b]);
      if (a !== 0) ends.push([-(b * edge + c) / a, edge]);
    }
    const inside = ends.filter(([x, y]) => x >= -1e-9 && x <= 1 + 1e-9 && y >= -1e-9 && y <= 1 + 1e-9);
    inside.sort((one, other) => one[0] - other[0] || one[1] - other[1]);
    return inside.length < 2 ? null : [...inside[0], ...inside[inside.length - 1]];
  }
  report.clip = clip;

  class Sample {
    constructor(sample, content, place) {
      this.sample = sample;
      this.content = content;
      this.place = place;
      this.category = report.data.categories[sample.category];
      this.frames = new Map(); // of views that the sample has
      this.maps = new Map(content.views.map((one) => [one.view, report.halves(one.map)]));
      this.choosable = Object.keys(this.category.lines.F).length > 0 || this.category.attention;
      if (content.attended) this.weights = report.halves(content.attended.weights);
    }

    show() {
      const { category, sample } = this;
      const many = category.views.length;
      const views = element("div", { class: many === 1 ? "views one" : many > 5 ? "views many" : "views" });
      views.style.setProperty("--columns", Math.min(many, 5));
      category.views.forEach((name, view) => views.append(this.figure(name, view)));
      this.told = element("p", { class: "told", "aria-live": "polite" });
      this.legend = element("div", {});
      this.tell(null);
      if (sample.reason) this.place.append(element("p", { class: "reason" }, `${WORDS[sample.decision]}: ${sample.reason}`));
      this.place.append(views, element("div", { class: "below" }, this.told, this.legend), report.labelling(sample));
      this.paint();
    }

    /** Heat, its legend and the contour of the decision, by the scale and the threshold that are chosen now. */
    paint() {
      const own = document.getElementById("filters").elements.scale.value === "own";
      const scale = report.scale(this.category, [...this.maps.values()], own);
      for (const [view, { frame, drawing }] of this.frames) {
        frame.querySelector(".heat").replaceWith(report.heat(this.category, this.maps.get(view), scale));
        drawing.querySelectorAll(".contour").forEach((one) => one.remove());
        const d = this.contour(view);
        if (d) drawing.append(element("path", { class: "halo contour", d }), element("path", { class: "contour", d }));
      }
      this.legend.replaceChildren(report.legend(this.category, scale, own));
    }

    /** The edge of the patches that fail by themselves; empty where patches do not decide. */
    contour(view) {
      const cut = report.cut(this.sample.category);
      if (cut === null || !this.category.contour) return "";
      const [rows, columns] = this.category.grid;
      const scores = this.maps.get(view);
      // A map holds float16: its highest patch is the score of the view, which decides.
      const limit = cut - Math.abs(cut) * 2 ** -11;
      const fails = (row, column) => row >= 0 && row < rows && column >= 0 && column < columns && scores[row * columns + column] >= limit;
      const [across, down] = [UNITS / columns, UNITS / rows];
      const parts = [];
      for (let row = 0; row < rows; row += 1) {
        for (let column = 0; column < columns; column += 1) {
          if (!fails(row, column)) continue;
          const [x, y] = [column * across, row * down];
          if (!fails(row - 1, column)) parts.push(`M${x} ${y}h${across}`);
          if (!fails(row + 1, column)) parts.push(`M${x} ${y + down}h${across}`);
          if (!fails(row, column - 1)) parts.push(`M${x} ${y}v${down}`);
          if (!fails(row, column + 1)) parts.push(`M${x + across} ${y}v${down}`);
        }
      }
      return parts.join("");
    }

    figure(name, view) {
      const found = this.content.views.find((one) => one.view === view);
      if (!found) {
        return element("figure", { class: "view" }, element("div", { class: "frame missing" }, "no picture"),
          element("figcaption", {}, element("strong", {}, name)));
      }
      const [, score, label, p] = this.sample.views.find((one) => one[0] === view);
      const scores = this.maps.get(view);
      const drawing = element("svg", { class: "lines", viewBox: `0 0 ${UNITS} ${UNITS}`, preserveAspectRatio: "none", "aria-hidden": "true" });
      const [width, height] = found.size;
      const frame = element(
        "div",
        this.choosable
          ? { class: "frame", tabindex: "0", role: "application", "aria-label": `${name}: choose a patch by a click or the arrow keys` }
          : { class: "frame still" },
        element("img", { src: `pictures/${this.sample.n}/${view}.webp`, width, height, loading: "lazy", draggable: "false", alt: `${name} of ${this.sample.id}` }),
        element("canvas", { class: "heat" }),
        drawing,
      );
      frame.style.aspectRatio = `${width} / ${height}`;
      const ignored = this.category.ignored[view];
      if (ignored) drawing.append(element("path", { class: "ignored", d: ignored }));
      if (found.outline) {
        drawing.append(element("path", { class: "halo outline", d: found.outline }), element("path", { class: "outline", d: found.outline }));
      }
      this.frames.set(view, { frame, drawing, scores });
      const enlarge = () => report.zoom(this.sample, found, name, frame);
      if (this.choosable) {
        frame.addEventListener("click", (event) => this.choose(view, this.patchAt(frame, event)));
        frame.addEventListener("keydown", (event) => this.key(view, event));
      } else {
        frame.addEventListener("click", enlarge);
      }
      const button = element("button", { type: "button", class: "enlarge", "aria-label": `Enlarge ${name}` }, "Enlarge");
      button.addEventListener("click", enlarge);
      const words = label === 1 ? "defective" : label === 0 ? "normal" : "";
      return element(
        "figure", { class: view === this.sample.worst ? "view worst" : "view" },
        frame,
        element("figcaption", {},
          element("strong", {}, name), words ? element("span", { class: "quiet" }, words) : null,
          element("span", { class: "figure" }, number(score)),
          p === null ? null : element("span", { class: "quiet p" }, report.pValue(p)),
          button,
          this.bar(score)),
      );
    }

    /** The view's score between the lowest and the highest of all views of the category. */
    bar(score) {
      const { range: [low, high], threshold } = this.category;
      const share = (value) => `${100 * Math.min(1, Math.max(0, (value - low) / Math.max(high - low, 1e-12)))}%`;
      const fill = element("span", { class: threshold !== null && score >= threshold ? "fill above" : "fill" });
      fill.style.width = share(score);
      const bar = element("span", { class: "bar", role: "img",
        "aria-label": `score ${number(score)}; views of ${this.category.name} lie from ${number(low)} to ${number(high)}` }, fill);
      if (threshold !== null && threshold >= low && threshold <= high) {
        const mark = element("span", { class: "mark" });
        mark.style.left = share(threshold);
        bar.append(mark);
      }
      return bar;
    }

    patchAt(frame, event) {
      const [rows, columns] = this.category.grid;
      const box = frame.getBoundingClientRect();
      const cell = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
      return cell((event.clientY - box.top) / box.height, rows) * columns + cell((event.clientX - box.left) / box.width, columns);
    }

    key(view, event) {
      const [rows, columns] = this.category.grid;
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (event.key === "Escape") {
        this.choose(null, null);
      } else if (event.key === "Enter" || event.key === " " || move) {
        let patch = this.chosen && this.chosen.view === view ? this.chosen.patch : null;
        if (patch === null) {
          const { scores } = this.frames.get(view);
          patch = scores.indexOf(Math.max(...scores)); // where most is to be seen
        } else if (move) {
          const row = Math.min(rows - 1, Math.max(0, Math.floor(patch / columns) + move[0]));
          const column = Math.min(columns - 1, Math.max(0, (patch % columns) + move[1]));
          patch = row * columns + column;
        }
        this.choose(view, patch);
      } else {
        return;
      }
      event.preventDefault();
    }

    choose(view, patch) {
      this.chosen = view === null ? null : { view, patch };
      for (const { drawing } of this.frames.values()) drawing.querySelectorAll(".choice").forEach((one) => one.remove());
      if (this.chosen) {
        for (const other of this.frames.keys()) if (other !== view) this.line(view, patch, other);
        this.attended(view, patch).forEach((one) => this.box(one.view, one.patch, "attended", one.weight));
        this.box(view, patch, "chosen");
      }
      this.tell(this.chosen);
    }

    line(view, patch, other) {
      const F = this.category.lines.F[`${view} ${other}`];
      if (!F) return;
      const [rows, columns] = this.category.grid;
      const point = [((patch % columns) + 0.5) / columns, (Math.floor(patch / columns) + 0.5) / rows, 1];
      const ends = clip([0, 1, 2].map((k) => point.reduce((sum, x, i) => sum + x * F[3 * i + k], 0)));
      if (!ends) return;
      const [x1, y1, x2, y2] = ends.map((end) => (UNITS * end).toFixed(1));
      for (const kind of ["halo", "epipolar"]) {
        this.frames.get(other).drawing.append(element("line", { class: `choice ${kind}`, x1, y1, x2, y2 }));
      }
    }

    box(view, patch, kind, weight) {
      const [rows, columns] = this.category.grid;
      const where = { x: ((patch % columns) * UNITS) / columns, y: (Math.floor(patch / columns) * UNITS) / rows, width: UNITS / columns, height: UNITS / rows };
      const { drawing } = this.frames.get(view);
      drawing.append(element("rect", { class: "choice halo", ...where }));
      const box = element("rect", { class: `choice ${kind}`, ...where });
      if (weight !== undefined) box.style.fillOpacity = Math.min(0.9, 0.15 + 3 * weight);
      drawing.append(box);
    }

    /** [{view, patch, weight}], most first; views that the sample lacks are never among them. */
    attended(view, patch) {
      if (!this.weights) return [];
      const { top, patches } = this.content.attended;
      const [rows, columns] = this.category.grid;
      const start = (view * rows * columns + patch) * top;
      return Array.from({ length: top }, (_, k) => ({
        view: Math.floor(patches[start + k] / (rows * columns)),
        patch: patches[start + k] % (rows * columns),
        weight: this.weights[start + k],
      })).filter((one) => one.weight > 0 && this.frames.has(one.view));
    }

    tell(chosen) {
      const { category } = this;
      if (!chosen) {
        this.told.replaceChildren(!this.choosable ? ""
          : "Choose a patch of any view to see its epipolar lines in the others"
            + (category.attention ? " and the patches that it attended to." : "."));
        return;
      }
      const columns = category.grid[1];
      const { view, patch } = chosen;
      const others = [...this.frames.keys()].filter((other) => other !== view);
      const without = (list) => others.filter(list).map((other) => category.views[other]).join(", ");
      const untrusted = without((other) => category.lines.untrusted.includes(`${view} ${other}`));
      const found = this.attended(view, patch);
      const parts = [
        element("strong", {}, `${category.views[view]}, row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`),
        `: patch score ${number(this.frames.get(view).scores[patch], 3)}. `,
      ];
      if (untrusted) parts.push(`No line in ${untrusted}: no trusted geometry. `);
      if (found.length) {
        const shares = new Map();
        found.forEach((one) => shares.set(one.view, (shares.get(one.view) || 0) + one.weight));
        const total = [...shares.values()].reduce((sum, one) => sum + one, 0);
        parts.push(`Its ${found.length} most attended patches hold ${Math.round(100 * total)} % of its attention (`
          + [...shares].sort(([one], [other]) => one - other).map(([at, share]) => `${category.views[at]} ${Math.round(100 * share)} %`).join(", ")
          + `), the first ${(100 * found[0].weight).toFixed(1)} %.`);
      } else if (this.weights) {
        parts.push("It had no patch to attend to.");
      } else if (category.attention) {
        parts.push("What it attended to was not kept for this sample.");
      }
      this.told.replaceChildren(...parts);
    }
  }
})();
