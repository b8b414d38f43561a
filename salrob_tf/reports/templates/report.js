(() => {
  "use strict";
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = Array.from(document.querySelectorAll("details:not([open])"));
    closed.forEach((each) => (each.open = true));
  });
  window.addEventListener("afterprint", () => closed.forEach((each) => (each.open = false)));
  const holder = document.getElementById("payload");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const byId = (id) => document.getElementById(id);
  const [filter, image, attack, epsilon] = ["filter", "image", "attack", "epsilon"].map(byId);
  const options = Array.from(image.options, (option) => option.textContent);
  const views = Array.from(document.querySelectorAll(".view"));
  // Names stand in elements of their own, so that those written from right to left move nothing around them.
  const name = (text) => Object.assign(document.createElement("bdi"), { textContent: text });
  const breaks = (network, which, step, row) => data.predicted[network][which][step][row] !== data.labels[row];
  // The worst of all is of each image the first attack that breaks it, or the first.
  const under = (network, step, row) => {
    if (Number(attack.value) < data.attacks.length) return Number(attack.value);
    return Math.max(0, data.attacks.findIndex((_, which) => breaks(network, which, step, row)));
  };
  const wrong = (network, row) => breaks(network, under(network, epsilon.value, row), epsilon.value, row);
  const firstBroken = (network, row) => {
    const found = data.epsilons.findIndex((_, step) => breaks(network, under(network, step, row), step, row));
    return found < 0 ? data.epsilons.length : found;
  };
  const chosen = () => {
    let rows = options.map((_, row) => row);
    if (filter.value === "0") rows = rows.filter((row) => wrong(0, row) && !wrong(1, row));
    if (filter.value === "1") rows = rows.filter((row) => wrong(1, row) && !wrong(0, row));
    if (filter.value === "surprise") {
      const gap = (row) => Math.abs(firstBroken(0, row) - firstBroken(1, row));
      rows.sort((one, other) => gap(other) - gap(one) || one - other);
    }
    return rows;
  };
  const list = () => {
    const before = image.value;
    const rows = chosen();
    image.replaceChildren(...rows.map((row) => new Option(options[row], row)));
    image.disabled = byId("previous").disabled = byId("next").disabled = !rows.length;
    if (rows.includes(Number(before)) && filter.value !== "surprise") image.value = before;
    show();
  };
  const show = () => {
    const step = Number(epsilon.value);
    byId("radius").textContent = data.epsilons[step];
    epsilon.setAttribute("aria-valuetext", data.epsilons[step]);
    byId("views").hidden = !image.options.length;
    if (!image.options.length) {
      byId("told").textContent = "No image is like this under this attack at this epsilon.";
      return;
    }
    const row = Number(image.value), [height, width] = data.size;
    const place = (index, count) => (count > 1 ? `${(100 * index) / (count - 1)}%` : "0");
    const told = [];
    views.forEach((view, network) => {
      const which = under(network, step, row);
      const shown = data.predicted[network][which][step][row];
      const sure = Math.round(100 * data.confidence[network][which][step][row]);
      const right = shown === data.labels[row];
      const sheets = data.sheets[network][which];
      const put = (element, property, sheet) => {
        element.style[`${property}Image`] = `url(${sheet})`;
        element.style[`${property}Size`] = `${100 * data.labels.length}% ${100 * data.epsilons.length}%`;
        element.style[`${property}Position`] = `${place(row, data.labels.length)} ${place(step, data.epsilons.length)}`;
      };
      const tiles = view.querySelectorAll(".tile");
      tiles.forEach((tile, kind) => {
        tile.style.aspectRatio = `${width} / ${height}`;
        put(tile, "background", sheets[kind]);
      });
      view.querySelectorAll(".hatch").forEach((hatch, kind) => put(hatch, "mask", sheets[tiles.length + kind]));
      const text = view.querySelector(".prediction");
      const truth = right ? [] : [", in truth ", name(data.classes[data.labels[row]])];
      const by = Number(attack.value) < data.attacks.length ? "" : `, by ${data.attacks[which]}`;
      text.replaceChildren(right ? "✓ " : "✗ ", name(data.classes[shown]), `, ${sure} % sure`, ...truth, by);
      text.classList.toggle("wrong", !right);
      told.push(" ", name(data.networks[network]), ": ", name(data.classes[shown]), `, ${sure} %${right ? "" : ", wrong"}.`);
    });
    const at = `${attack.selectedOptions[0].textContent}, epsilon ${data.epsilons[step]}.`;
    byId("told").replaceChildren(`${options[row]}; ${at}`, ...told);
  };
  const step = (by) => {
    const count = image.options.length;
    if (!count) return;
    image.selectedIndex = (image.selectedIndex + by + count) % count;
    show();
  };
  filter.addEventListener("change", list);
  attack.addEventListener("change", list);
  epsilon.addEventListener("input", () => (filter.value === "0" || filter.value === "1" ? list() : show()));
  image.addEventListener("change", show);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  // Points of charts do by mouse what numbers of the table, which are links, do by keyboard as well.
  document.querySelectorAll("[data-attack]").forEach((lead) =>
    lead.addEventListener("click", () => {
      attack.selectedIndex = Array.from(attack.options, (option) => option.textContent).indexOf(lead.dataset.attack);
      epsilon.value = data.epsilons.indexOf(lead.dataset.epsilon);
      list();
      byId("explorer").scrollIntoView();
    }),
  );
  list();
})();
