// The slider below a histogram: a threshold of the user, what it would do to these samples, and its file.
"use strict";

(function () {
  const { element, number, data } = report;
  const single = Math.fround; // scores and thresholds are float32: 52.3 as it is typed is the score 52.3
  const moved = new Map(); // category -> threshold, where it is not the run's own
  const listeners = [];

  data.samples.forEach((sample) => { sample.ownOutcome = sample.outcome; });

  /** The lowest score that fails in a category; null where no threshold is known. */
  report.cut = (at) => (moved.has(at) ? moved.get(at) : data.categories[at].cut);
  report.isMoved = (at) => moved.has(at);
  /** Calls `done(category)` whenever a threshold changes. */
  report.onCut = (done) => listeners.push(done);

  function fails(score, at) {
    return single(score) >= single(report.cut(at));
  }

  function outcome(sample) {
    if (sample.label === undefined) return undefined;
    return fails(sample.score, sample.category) ? ["false alarm", "found"][sample.label] : ["passed", "missed"][sample.label];
  }

  const share = (part, of) => (of ? `${((100 * part) / of).toFixed(1)} %` : "undefined");

  /** What the threshold of a category does to the samples of this page, in words. */
  function counts(at) {
    const { held_out: held, name } = data.categories[at];
    if (report.cut(at) === null) return `No threshold of ${name} is known: move the slider to set one.`;
    const own = data.samples.filter((sample) => sample.category === at);
    const known = own.filter((sample) => sample.label !== undefined);
    const failing = (list) => list.filter((sample) => fails(sample.score, at)).length;
    const parts = [];
    if (known.length) {
      const [good, defective] = [0, 1].map((label) => known.filter((sample) => sample.label === label));
      const [found, alarms] = [failing(defective), failing(good)];
      parts.push(`found ${found} of ${defective.length}, missed ${defective.length - found}, false alarms ${alarms} of ${good.length}; `
        + `precision ${share(found, found + alarms)}, recall ${share(found, defective.length)}`);
    }
    if (known.length < own.length) {
      const unknown = own.filter((sample) => sample.label === undefined);
      parts.push(`${failing(unknown)} of ${unknown.length} unlabelled samples fail`);
    }
    if (held.length) {
      const above = held.filter((score) => fails(score, at)).length;
      parts.push(`it amounts to a conformal target of ${share(1 + above, held.length + 1)}: ${above} of ${held.length} `
        + "held-out good samples score as high");
    }
    return `${parts.join("; ")}.`;
  }

  function save() {
    const thresholds = {};
    data.categories.forEach((category, at) => { if (report.cut(at) !== null) thresholds[category.name] = report.cut(at); });
    report.download("threshold.json", "application/json", `${JSON.stringify({ schema: data.schema, model: data.model, thresholds }, null, 1)}\n`);
  }

  /** The controls of one category. Args: place: the element of the template that they go into. */
  function control(place) {
    const at = Number(place.dataset.category);
    const { name, span: [low, high], cut } = data.categories[at];
    const start = cut === null ? high : cut;
    const step = (high - low) / 400;
    const slider = element("input", { type: "range", min: low, max: high, step, value: start, "aria-label": `Threshold of ${name}` });
    const field = element("input", { type: "number", step: "any", value: cut === null ? "" : number(cut, 6), "aria-label": `Threshold of ${name}, as a number` });
    const back = element("button", { type: "button", hidden: true }, "Undo");
    const keep = element("button", { type: "button", class: "save", disabled: !data.model }, "Save threshold file");
    const told = element("p", { class: "counts", role: "status" });
    const line = place.closest(".charts").querySelector(".cut-line");
    const key = place.closest(".charts").querySelector(".cut-name");
    const usual = key.textContent;

    function show() {
      const value = report.cut(at);
      const x = value === null ? null : (196 * (value - low)) / (high - low);
      line.setAttribute("d", x === null || x < -1 || x > 197 ? "" : `M${x.toFixed(1)} -2V120`);
      key.textContent = moved.has(at) ? "your threshold, not saved" : usual;
      back.hidden = !moved.has(at);
      told.textContent = counts(at);
    }

    function change(value) {
      if (value === null) moved.delete(at);
      else moved.set(at, value);
      data.samples.forEach((sample) => {
        if (sample.category === at) sample.outcome = moved.has(at) ? outcome(sample) : sample.ownOutcome;
      });
      show();
      listeners.forEach((done) => done(at));
    }

    slider.addEventListener("input", () => {
      const value = Number(Number(slider.value).toPrecision(5));
      field.value = value;
      change(value);
    });
    field.addEventListener("input", () => {
      if (field.value === "" || !Number.isFinite(field.valueAsNumber)) return;
      slider.value = field.valueAsNumber;
      change(field.valueAsNumber);
    });
    back.addEventListener("click", () => {
      slider.value = start;
      field.value = cut === null ? "" : number(cut, 6);
      change(null);
      slider.focus();
    });
    keep.addEventListener("click", () => {
      save();
      if (moved.has(at)) key.textContent = "your threshold";
    });
    place.append(slider, element("p", { class: "fields" }, element("label", {}, "Threshold ", field), back, keep), told);
    if (!data.model) place.append(element("p", { class: "note" }, "These scores do not say of which model they are: score again to save a threshold."));
    show();
  }

  document.querySelectorAll(".threshold").forEach(control);
})();
