// A view in its original size, with all that is drawn over it.
"use strict";

(function () {
  const { element } = report;
  const dialog = document.getElementById("zoom");

  /** Opens a view. Args: found: of samples/<n>.js. frame: as it is shown in the sample, which is copied. */
  report.zoom = function (sample, found, name, frame) {
    const [width, height] = found.original;
    const copy = element("div", { class: "frame" });
    const image = frame.querySelector("img").cloneNode();
    if (found.full) image.src = `pictures/${sample.n}/${found.view}_full.webp`;
    const heat = frame.querySelector(".heat");
    const canvas = heat.cloneNode();
    canvas.getContext("2d").drawImage(heat, 0, 0);
    copy.append(image, canvas, frame.querySelector(".lines").cloneNode(true));
    const scroller = element("div", { class: "scroller", tabindex: "0" }, copy);

    /** One pixel of the image on one of the screen, or as large as fits. */
    function size(whole) {
      const { clientWidth, clientHeight } = scroller;
      const scale = whole ? 1 / devicePixelRatio : Math.min(clientWidth / width, clientHeight / height);
      copy.style.width = `${width * scale}px`;
      copy.style.height = `${height * scale}px`;
      fit.setAttribute("aria-pressed", !whole);
      original.setAttribute("aria-pressed", whole);
    }

    const fit = element("button", { type: "button" }, "Fit");
    const original = element("button", { type: "button" }, "Original size");
    const close = element("button", { type: "button" }, "Close");
    fit.addEventListener("click", () => size(false));
    original.addEventListener("click", () => size(true));
    close.addEventListener("click", () => dialog.close());
    const small = !found.full && (width > found.size[0] || height > found.size[1]);
    dialog.replaceChildren(
      element("p", { class: "bar-of-zoom" }, element("strong", {}, `${name} of ${sample.id}`),
        element("span", { class: "quiet" }, `${width} × ${height} pixels`
          + (small ? `; this page holds a copy of ${found.size[0]} × ${found.size[1]}, the first 100 samples of its own order in full` : "")),
        fit, original, close),
      scroller,
    );
    dialog.showModal();
    size(true);
    scroller.focus();
  };
})();
