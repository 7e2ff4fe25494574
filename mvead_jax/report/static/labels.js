// Labels that a person gives on the page: kept until it is closed, and handed out as a list for train.py --add.
"use strict";

(function () {
  const { element, data } = report;
  const given = new Map(); // line of samples.csv -> label
  const listeners = [];
  const button = document.getElementById("labels");

  report.label = (sample) => given.get(sample.n);
  /** Calls `done(sample)` whenever a label changes. */
  report.onLabel = (done) => listeners.push(done);

  function give(sample, label) {
    if (label === given.get(sample.n)) given.delete(sample.n); // a second click takes it back
    else given.set(sample.n, label);
    button.hidden = !given.size;
    button.textContent = `Download ${given.size} ${given.size === 1 ? "label" : "labels"}`;
    listeners.forEach((done) => done(sample));
  }

  /** The buttons of an opened sample. */
  report.labelling = function (sample) {
    const buttons = ["good", "defective"].map((label) => {
      const made = element("button", { type: "button", "aria-pressed": given.get(sample.n) === label }, label === "good" ? "Good" : "Defective");
      made.addEventListener("click", () => {
        give(sample, label);
        buttons.forEach((one, at) => one.setAttribute("aria-pressed", given.get(sample.n) === ["good", "defective"][at]));
      });
      return made;
    });
    return element("p", { class: "labelling", role: "group", "aria-label": `Your label of ${sample.id}` }, "This part is ", buttons);
  };

  button.addEventListener("click", () => {
    const samples = data.samples.filter((sample) => given.has(sample.n)).sort((one, other) => one.n - other.n)
      .map((sample) => ({ category: data.categories[sample.category].name, sample: sample.id, label: given.get(sample.n) }));
    report.download("labels.json", "application/json", `${JSON.stringify({ schema: data.labels, scored: data.scored, samples }, null, 1)}\n`);
  });
})();
