// The list of samples: filters, orders, rows. Rows are made as the end of the list comes near.
"use strict";

(function () {
  const { element, number, data } = report;
  const AT_ONCE = 40;
  const OUTCOMES = ["missed", "false alarm", "found", "passed"];
  const list = document.getElementById("list");
  const form = document.getElementById("filters");
  data.samples.forEach((sample, place) => {
    sample.place = place; // data.samples lies in the order of surprise
  });

  /** What the search looks through; an outcome follows the slider. */
  function wordsOf({ id, category, defect, outcome, decision, reason }) {
    return [id, data.categories[category].name, defect, outcome, decision, reason].join(" ").toLowerCase();
  }

  let shown = [];
  let made = 0;

  const ORDERS = {
    surprise: (one, other) => one.place - other.place,
    highest: (one, other) => other.score - one.score || one.n - other.n,
    lowest: (one, other) => one.score - other.score || one.n - other.n,
    name: (one, other) => one.n - other.n,
  };

  /** Fills a select with the values that occur, in the order of `known`, then by name; keeps what is chosen. */
  function offer(name, known) {
    const select = form.elements[name];
    if (!select) return;
    const chosen = select.value;
    select.length = 1; // the first is "all"
    const counts = new Map();
    data.samples.forEach((sample) => sample[name] && counts.set(sample[name], (counts.get(sample[name]) || 0) + 1));
    const place = (value) => (known.includes(value) ? known.indexOf(value) : known.length);
    [...counts].sort(([one], [other]) => place(one) - place(other) || (one < other ? -1 : 1))
      .forEach(([value, count]) => select.append(element("option", { value }, `${value} (${count})`)));
    if (chosen && !counts.has(chosen)) select.append(element("option", { value: chosen }, `${chosen} (0)`));
    select.value = chosen;
    select.closest("label").hidden = select.length === 1;
  }

  function refresh() {
    const value = (name) => (form.elements[name] ? form.elements[name].value : "");
    const words = value("text").toLowerCase().split(/\s+/).filter(Boolean);
    shown = data.samples.filter((sample) =>
      (value("category") === "" || sample.category === Number(value("category")))
      && ["defect", "outcome", "decision"].every((name) => value(name) === "" || sample[name] === value(name))
      && (!words.length || words.every((word) => wordsOf(sample).includes(word))));
    shown.sort(ORDERS[value("order")]);
    made = 0;
    list.replaceChildren();
    const of = data.samples.length;
    document.getElementById("count").textContent = shown.length === of ? `${of} samples.` : `${shown.length} of ${of} samples.`;
    if (!shown.length) list.append(element("li", { class: "note" }, "No sample fits these filters."));
    more();
    showCharts(value("category"));
  }

  function more() {
    list.append(...shown.slice(made, made + AT_ONCE).map(row));
    made = Math.min(shown.length, made + AT_ONCE);
  }

  /** The charts of the chosen category; of the first where all are listed. */
  function showCharts(category) {
    document.querySelectorAll(".charts").forEach((one) => { one.hidden = one.dataset.category !== (category || "0"); });
    document.querySelectorAll(".choose").forEach((one) => one.setAttribute("aria-pressed", one.dataset.category === category));
  }

  function row(sample) {
    const category = data.categories[sample.category];
    const detail = element("div", { class: "detail", id: `detail-${sample.n}`, hidden: true });
    const button = element(
      "button", { type: "button", class: "row", "aria-expanded": "false", "aria-controls": `detail-${sample.n}` },
      sample.pictured
        ? element("img", { class: "thumb", src: `pictures/${sample.n}/${sample.worst}.webp`, loading: "lazy", alt: "" })
        : element("span", { class: "thumb" }),
      element("span", { class: "name" }, element("span", {}, sample.id),
        element("small", {}, [category.name, sample.defect].filter(Boolean).join(" · "))),
      element("span", { class: "chips" }, ...chips(sample)),
      bars(sample, category),
      element("span", { class: "score" }, element("span", {}, number(sample.score)), element("small", {}, beside(sample, category))),
    );
    button.addEventListener("click", () => toggle(sample, button, detail));
    return element("li", { class: "sample", id: `sample-${sample.n}` }, button, detail);
  }

  function chips(sample) {
    const words = sample.outcome || sample.decision;
    const label = report.label(sample);
    return [words ? element("span", { class: `chip ${words.replace(" ", "-")}` }, words) : null,
      label ? element("span", { class: "chip given" }, `you: ${label}`) : null].filter(Boolean);
  }

  function mark(sample) {
    document.getElementById(`sample-${sample.n}`).querySelector(".chips").replaceChildren(...chips(sample));
  }

  /** Heat and contours of the samples that are open. */
  function repaint() {
    list.querySelectorAll(".detail").forEach((detail) => detail.repaint && !detail.hidden && detail.repaint());
  }

  /** Another threshold of a category: its outcomes, where they are shown and where they are chosen by. */
  function changed(category) {
    offer("outcome", OUTCOMES);
    if (form.elements.outcome && form.elements.outcome.value) refresh();
    repaint();
    shown.slice(0, made).forEach((sample) => {
      if (sample.category !== category) return;
      const item = document.getElementById(`sample-${sample.n}`);
      mark(sample);
      item.querySelector(".score small").textContent = beside(sample, data.categories[category]);
    });
  }

  /** How the score stands to the threshold, as far as that is known. */
  function beside(sample, category) {
    const words = [];
    const whole = sample.views.length === category.views.length; // else its threshold is another one
    const cut = report.isMoved(sample.category) ? report.cut(sample.category) : category.threshold;
    if (whole && cut > 0 && sample.score > 0) words.push(`${(sample.score / cut).toFixed(2)} × threshold`);
    if (sample.p !== undefined) words.push(report.pValue(sample.p));
    return words.join(", ") || `highest in ${category.views[sample.worst]}`;
  }

  /** A bar for each view, in the range of its category. */
  function bars(sample, category) {
    const [low, high] = category.range;
    const made = category.views.map((name, view) => {
      const found = sample.views.find((one) => one[0] === view);
      const bar = element("span", { class: !found ? "none" : view === sample.worst ? "most" : null });
      if (found) bar.style.height = `${Math.round(12 + (88 * (found[1] - low)) / Math.max(high - low, 1e-12))}%`;
      return bar;
    });
    return element("span", { class: "bars", role: "img", "aria-label": `highest in ${category.views[sample.worst]}` }, made);
  }

  function toggle(sample, button, detail) {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", open);
    detail.hidden = !open;
    detail.closest(".sample").classList.toggle("open", open);
    detail.replaceChildren();
    detail.repaint = null;
    if (open) report.showSample(sample, detail);
  }

  function openByAddress() {
    const found = /^#sample-(\d+)$/.exec(location.hash);
    const place = found ? shown.findIndex((sample) => sample.n === Number(found[1])) : -1;
    while (place >= made) more();
    const item = document.getElementById(place >= 0 ? `sample-${found[1]}` : `sample-${shown.length ? shown[0].n : ""}`);
    const button = item && item.querySelector(".row");
    if (button && button.getAttribute("aria-expanded") !== "true") button.click();
    if (place >= 0) item.scrollIntoView();
  }

  offer("defect", []);
  offer("outcome", OUTCOMES);
  offer("decision", ["defective"]);
  form.elements.category.closest("label").hidden = data.categories.length < 2;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (event.target.type === "checkbox") {
      document.body.classList.toggle(`no-${event.target.name}`, !event.target.checked);
    } else if (event.target.name === "scale") {
      repaint();
    } else if (event.target.name === "show") {
      list.classList.toggle("gallery", event.target.value === "gallery");
      refresh(); // closes what is open
    } else {
      refresh();
    }
  });
  document.querySelectorAll(".choose").forEach((one) => one.addEventListener("click", () => {
    const { category } = form.elements;
    category.value = category.value === one.dataset.category ? "" : one.dataset.category;
    refresh();
  }));
  list.addEventListener("keydown", (event) => {
    if (!event.target.matches(".row") || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
    const item = event.target.closest("li");
    const next = event.key === "ArrowDown" ? item.nextElementSibling : item.previousElementSibling;
    if (next) next.querySelector(".row").focus();
    event.preventDefault();
  });
  new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && made < shown.length && more(), { rootMargin: "800px" })
    .observe(document.getElementById("more"));
  addEventListener("hashchange", openByAddress);
  report.onCut(changed);
  report.onLabel(mark);
  form.reset(); // a browser keeps fields over a reload
  refresh();
  openByAddress();
})();
