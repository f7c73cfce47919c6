// Threshold, classes, proposals and models: what holds for all panels alike.

import { classColour } from "./colours.js";
import { classCounts, onChange, state, update } from "./state.js";

const byId = (id) => document.getElementById(id);

export function setUpControls({ chooseModels, announce, announceCount }) {
  const threshold = byId("threshold");
  threshold.addEventListener("input", () => {
    update({ threshold: Number(threshold.value), thresholdChosen: true });
  });
  threshold.addEventListener("change", announceCount);
  byId("proposals").addEventListener("change", (event) => {
    update({ showProposals: event.target.checked });
    announce(event.target.checked ? "Proposals shown." : "Proposals hidden.");
  });
  for (const id of ["model", "compare"]) {
    byId(id).addEventListener("change", () => chooseModels(byId("model").value, byId("compare").value));
  }
  onChange(renderThreshold);
  onChange(renderProposals);
  onChange(() => renderClasses(announceCount));
}

export function fillModels(models) {
  const options = (first) => [
    ...first,
    ...models.map(({ name }) => new Option(name, name)),
  ];
  byId("model").replaceChildren(...options([]));
  byId("compare").replaceChildren(...options([new Option("none", "")]));
  byId("compare-field").hidden = models.length < 2;
}

function renderThreshold() {
  const threshold = byId("threshold");
  threshold.value = state.threshold;
  byId("threshold-value").textContent = state.threshold.toFixed(2);
}

function renderProposals() {
  const numbers = state.panels.map((panel) => panel.look?.proposals.length ?? 0);
  byId("proposals-field").hidden = numbers.every((number) => number === 0);
  byId("proposals").checked = state.showProposals;
  byId("proposals-name").textContent = `All ${Math.max(...numbers, 0)} proposals of the first stage`;
}

/** Checkboxes of the classes that are there; kept while their counts change, for the focus. */
function renderClasses(announceCount) {
  const fieldset = byId("classes");
  const known = new Map([...fieldset.querySelectorAll("label")].map((one) => [one.title, one]));
  const counts = classCounts();
  fieldset.hidden = counts.length === 0;
  for (const [name, numbers] of counts) {
    const row = known.get(name) ?? newClass(fieldset, name, announceCount);
    known.delete(name);
    const hidden = state.hiddenClasses.has(name);
    row.hidden = !hidden && numbers.every((number) => number === 0);
    row.querySelector("input").checked = !hidden;
    row.querySelector(".number").textContent = numbers.join(" | ");
  }
  for (const gone of known.values()) gone.remove();
}

function newClass(fieldset, name, announceCount) {
  const row = document.createElement("label");
  row.title = name;
  const box = document.createElement("input");
  box.type = "checkbox";
  box.addEventListener("change", () => {
    state.hiddenClasses[box.checked ? "delete" : "add"](name);
    update();
    announceCount();
  });
  const objects = state.panels.flatMap((panel) => panel.look?.objects ?? []);
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.background = classColour(objects.find((one) => one.class === name).label);
  const text = document.createElement("span");
  text.textContent = name;
  const number = document.createElement("span");
  number.className = "number";
  row.append(box, swatch, text, number);
  fieldset.append(row);
  return row;
}
