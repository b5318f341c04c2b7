"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse(document.getElementById("data").textContent);
  document.documentElement.classList.add("js");

  // Tables: a heading sorts by the number behind each cell; what has none stays last.
  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        all("thead th", table).forEach(other => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = row => row.cells[column].dataset.value;
        const order = (a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === "" || y === "") return (x === "") - (y === "");
          const sign = down ? -1 : 1;
          return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
        };
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort(order));
      });
    });
  }

  // A table that is wider than the page says so until its end is in sight.
  for (const wide of all(".wide")) {
    const hint = wide.previousElementSibling;
    const look = () => {
      hint.hidden = wide.scrollWidth <= wide.clientWidth + 1;
      wide.classList.toggle("cut", wide.scrollLeft + wide.clientWidth < wide.scrollWidth - 1);
    };
    wide.addEventListener("scroll", look, { passive: true });
    window.addEventListener("resize", look);
    look();
  }

  // Curves: one metric at a time; the legend takes lines away and, under the pointer or the focus, brings one out.
  const metric = document.getElementById("metric");
  metric?.addEventListener("change", () => {
    all("#curves .panels").forEach(panels => { panels.hidden = panels.dataset.metric !== metric.value; });
  });
  const series = number => all(`.series[data-restorer="${number}"]`);
  for (const key of all("#curves .legend button")) {
    const number = key.dataset.restorer;
    const show = on => {
      key.setAttribute("aria-pressed", on);
      series(number).forEach(line => line.classList.toggle("off", !on));
    };
    const bringOut = on => all(".series").forEach(
      line => line.classList.toggle("faded", on && line.dataset.restorer !== number));
    show(key.getAttribute("aria-pressed") === "true");
    key.addEventListener("click", () => show(key.getAttribute("aria-pressed") !== "true"));
    key.addEventListener("mouseenter", () => bringOut(true));
    key.addEventListener("mouseleave", () => bringOut(false));
    key.addEventListener("focus", () => bringOut(key.matches(":focus-visible")));
    key.addEventListener("blur", () => bringOut(false));
  }

  // Images.
  const choice = name => document.getElementById(name);
  const [restorer, left, right, cases, columns] = ["restorer", "left", "right", "cases", "columns"].map(choice);
  if (!restorer) return;
  const cards = all(".case");
  const loaded = uri => new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = failed;
    image.src = uri;
  });

  function pixels(image) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    return pen.getImageData(0, 0, canvas.width, canvas.height);
  }

  // Red where there is too much, blue where there is too little, white where it is right.
  function paintResidual(canvas, truth, restored) {
    const [one, two] = [pixels(truth), pixels(restored)];
    [canvas.width, canvas.height] = [one.width, one.height];
    const pen = canvas.getContext("2d"), out = pen.createImageData(one.width, one.height);
    for (let i = 0; i < out.data.length; i += 4) {
      const size = Math.max(-1, Math.min(1, (two.data[i] - one.data[i]) / 255 * data.gain));
      const far = size > 0 ? [178, 24, 43] : [33, 102, 172], share = Math.abs(size);
      for (let k = 0; k < 3; k++) out.data[i + k] = 247 + (far[k] - 247) * share;
      out.data[i + 3] = 255;
    }
    pen.putImageData(out, 0, 0);
  }

  async function refresh(card) {
    const held = data.cases[card.dataset.case], name = restorer.value;
    const uri = held.images[`restored:${name}`];
    const [before, after, canvas] = ["img.left", "img.right", "canvas.right"].map(s => card.querySelector(s));
    before.src = held.images[left.value];
    const residual = right.value === "residual" && uri;
    after.src = right.value === "truth" ? held.images.truth : uri || held.images.distorted;
    card.querySelector(".leftname").textContent = left.value;
    card.querySelector(".rightname").textContent = right.value === "truth" ? "truth"
      : !uri ? `${name}: no image` : residual ? `${name}: residual ×${data.gain}` : name;
    after.alt = card.querySelector(".rightname").textContent;
    card.querySelector(".figures").textContent = held.words[name] ?? `${name}: not run on this image`;
    if (residual) paintResidual(canvas, await loaded(held.images.truth), await loaded(uri));
    canvas.hidden = !residual;
    after.hidden = Boolean(residual);
  }

  function refreshAll() {
    for (const card of cards) {
      card.hidden = !(cases.value === "" || data.cases[card.dataset.case].groups.includes(cases.value));
      refresh(card);
    }
    document.getElementById("residual-key").hidden = right.value !== "residual";
  }
  [restorer, left, right, cases].forEach(control => control.addEventListener("change", refreshAll));
  columns.addEventListener("change", () => {
    document.getElementById("images").classList.toggle("show-columns", columns.checked);
  });

  function split(card, value) {
    card.querySelector("input").value = value;
    card.querySelector(".compare").style.setProperty("--split", `${value}%`);
  }
  for (const card of cards) {
    card.querySelector("input").addEventListener("input", event => split(card, event.target.value));
    const enlarge = card.querySelector(".enlarge");
    enlarge.addEventListener("click", () => {
      enlarge.setAttribute("aria-pressed", card.classList.toggle("large"));
      enlarge.textContent = card.classList.contains("large") ? "reduce" : "enlarge";
    });
  }

  // #case=poisson-3/5&restorer=bm3d&right=residual&split=30&columns=1 opens one view; so do the links of worst cases.
  function fromAddress() {
    if (!location.hash.includes("=")) return;
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const [name, control] of Object.entries({ restorer, left, right, cases, metric })) {
      const value = asked.get(name);
      if (value !== null && [...control.options].some(option => option.value === value)) control.value = value;
    }
    metric.dispatchEvent(new Event("change"));
    columns.checked = asked.get("columns") === "1" || columns.checked && !asked.has("columns");
    columns.dispatchEvent(new Event("change"));
    if (asked.has("case")) cases.value = "";
    refreshAll();
    cards.forEach(card => {
      const sought = card.dataset.name === asked.get("case");
      card.classList.toggle("sought", sought);
      if (asked.has("split") && (sought || !asked.has("case"))) split(card, asked.get("split"));
      if (sought) card.scrollIntoView({ block: "center", behavior: "instant" });
    });
  }
  window.addEventListener("hashchange", fromAddress);
  refreshAll();
  fromAddress();
})();
