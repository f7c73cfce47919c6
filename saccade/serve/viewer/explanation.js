// The card about what is open: its layers, heads and levels, and a table of what the picture shows.

import { contains } from "./boxes.js";
import { drawPoint } from "./drawing.js";
import { newLegend } from "./legend.js";
import { isOpen, layerOf, onChange, openLayers, pointsOfLayer, state, update } from "./state.js";

const byId = (id) => document.getElementById(id);
const PAUSE = 900; // milliseconds that a layer stays while playing
let playing = 0;

export function setUpExplanation({ close, showLayer }) {
  byId("close").addEventListener("click", close);
  byId("layer").addEventListener("input", (event) => {
    stop();
    showLayer(Number(event.target.value) - 1);
  });
  byId("play").addEventListener("click", () => (playing ? stop() : play(showLayer)));
  byId("head").addEventListener("change", ({ target }) => update({ head: numberOrNull(target) }));
  byId("token-level").addEventListener("change", ({ target }) => {
    update({ tokenLevel: numberOrNull(target) });
  });
  onChange(render);
}

const numberOrNull = ({ value }) => (value === "" ? null : Number(value));

/** From the first layer, or on from here, to the last. */
function play(showLayer) {
  const last = depth() - 1;
  if (state.layer >= last) showLayer(0);
  playing = setInterval(() => {
    showLayer(state.layer + 1);
    if (state.layer >= last) stop();
  }, PAUSE);
  byId("play").textContent = "Pause";
}

export function stop() {
  clearInterval(playing);
  playing = 0;
  byId("play").textContent = "Play";
}

/** Layers of the deepest model that has something open. */
export function depth() {
  return Math.max(0, ...state.panels.map((panel) => openLayers(panel).length));
}

function render() {
  const open = state.panels.filter(isOpen);
  byId("explanation").hidden = open.length === 0;
  if (open.length === 0) return;
  const first = open[0];
  const layers = depth();
  renderTitle(first);
  byId("details").hidden = layers === 0;
  byId("layer").max = layers;
  byId("layer").value = Math.min(state.layer, layers - 1) + 1;
  byId("layer-name").textContent = `${Math.min(state.layer, layers - 1) + 1} of ${layers}`;
  byId("play").hidden = layers < 2;
  byId("token-level-field").hidden = !first.pixel || first.pixel.tokens.length < 2;
  const points = open.flatMap((panel) => pointsOfLayer(panel, layerOf(panel)));
  const numHeads = 1 + Math.max(0, ...points.map((point) => point[4]));
  renderChoice(byId("head"), numHeads, state.head);
  renderChoice(byId("token-level"), first.pixel?.tokens.length ?? 0, state.tokenLevel);
  renderLevels(open.find((panel) => panel.look.levels.length > 1) ?? first);
  byId("legend").replaceChildren(...newLegend(first));
  byId("tables").replaceChildren(...open.map(newTable));
}

function renderTitle(panel) {
  const note = byId("explanation-note");
  if (panel.opened !== null) {
    const object = panel.look.objects[panel.opened];
    byId("explanation-title").textContent = `${object.class} ${object.score.toFixed(2)}`;
    note.textContent = object.layers.length
      ? `Where query ${object.query} looked to find it.`
      : "This model runs in an engine that cannot say where it looked.";
  } else {
    const [x, y] = panel.pixel.pixel.map(Math.floor);
    byId("explanation-title").textContent = `Pixel ${x}, ${y}`;
    note.textContent = "Where the encoder's tokens at this pixel look.";
  }
  if (panel.look.kind === "dense") note.textContent += " The strongest keys stand for points.";
}

/** All, or one of `number`; the options are kept while they are right, for the focus. */
function renderChoice(select, number, chosen) {
  if (select.options.length !== number + 1) {
    const one = (_, index) => new Option(String(index + 1), String(index));
    select.replaceChildren(new Option("all", ""), ...Array.from({ length: number }, one));
  }
  select.value = chosen ?? "";
}

/** How the weight of the layer is shared among the levels, with a switch for each. */
function renderLevels(panel) {
  const fieldset = byId("levels");
  const { levels } = panel.look;
  fieldset.hidden = levels.length < 2;
  const rows = [...fieldset.querySelectorAll("label")];
  if (rows.length !== levels.length) {
    for (const row of rows) row.remove();
    fieldset.append(...levels.map((_, level) => newLevel(level)));
  }
  const points = pointsOfLayer(panel, layerOf(panel));
  const total = sumOf(points) || 1;
  for (const [level, row] of [...fieldset.querySelectorAll("label")].entries()) {
    const share = sumOf(points.filter((point) => point[3] === level)) / total;
    const { height, width } = levels[level];
    row.querySelector("input").checked = !state.hiddenLevels.has(level);
    row.querySelector(".name").textContent = `${width} × ${height} tokens`;
    row.querySelector("meter").value = share;
    row.querySelector(".number").textContent = `${Math.round(100 * share)} %`;
  }
}

const sumOf = (points) => points.reduce((sum, point) => sum + point[2], 0);

function newLevel(level) {
  const row = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.addEventListener("change", () => {
    state.hiddenLevels[box.checked ? "delete" : "add"](level);
    update();
  });
  const symbol = document.createElement("canvas");
  symbol.className = "symbol";
  Object.assign(symbol, { width: 48, height: 48 });
  drawPoint(symbol.getContext("2d"), level, 24, 25, 0.7, 2.4);
  const name = document.createElement("span");
  name.className = "name";
  const number = document.createElement("span");
  number.className = "number";
  row.append(box, symbol, name, document.createElement("meter"), number);
  return row;
}

function newTable(panel) {
  const table = document.createElement("table");
  const caption = table.createCaption();
  caption.textContent = panel.model.name;
  caption.className = state.panels.length > 1 ? "" : "unseen";
  const ofObject = panel.opened !== null;
  const head = table.createTHead().insertRow();
  const titles = ofObject ? ["Layer", "Score", "Points", "In its box"] : ["Layer", "Points", "Reach"];
  for (const title of titles) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = title;
    head.append(cell);
  }
  const body = table.createTBody();
  for (const [index, layer] of openLayers(panel).entries()) {
    const points = pointsOfLayer(panel, index);
    const total = sumOf(points) || 1;
    const row = body.insertRow();
    if (index === layerOf(panel)) row.setAttribute("aria-current", "true");
    const inside = points.filter(([x, y]) => ofObject && contains(layer.box, x, y));
    const texts = ofObject
      ? [index + 1, layer.score.toFixed(2), points.length, percent(sumOf(inside) / total)]
      : [index + 1, points.length, `${reach(points, panel.pixel.pixel).toFixed(0)} px`];
    for (const text of texts) row.insertCell().textContent = text;
  }
  return table;
}

const percent = (share) => `${Math.round(100 * share)} %`;

/** Mean distance of the points from a pixel, by weight. */
function reach(points, [x, y]) {
  const far = points.reduce((sum, [px, py, weight]) => sum + weight * Math.hypot(px - x, py - y), 0);
  return far / (sumOf(points) || 1);
}
