// The page: from an image to what the models say about it, and from clicks to what is open.

import { TokenNeeded, fetchLook, fetchModels, fetchPixel, useToken } from "./api.js";
import { nearest } from "./boxes.js";
import { fillModels, setUpControls } from "./controls.js";
import { depth, setUpExplanation, stop } from "./explanation.js";
import { onImage, openImage } from "./image.js";
import { newList } from "./objects.js";
import { newStage } from "./stage.js";
import { newPanel, onChange, openLayers, layerOf, pointsOfLayer, shownIndices, state, update }
  from "./state.js";

const byId = (id) => document.getElementById(id);
let views = []; // what renders each panel
let asking = new AbortController(); // ends questions whose answer nobody waits for
let askingPixel = new AbortController();
let taken = 0; // how many images have been dropped, pasted or chosen
let retry = start; // what the token was missing for

const act = { open, lookFrom, showLayer };

function announce(text) {
  byId("status").textContent = text;
}

function announceCount() {
  const counts = state.panels.map((panel) => shownIndices(panel).length).join(" and ");
  const objects = counts === "1" ? "object" : "objects";
  announce(`${counts} ${objects} shown, score from ${state.threshold.toFixed(2)}.`);
}

function complain(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

/** Run `task`; where a token is missing ask for it, and run `again` once it is there. */
async function guarded(task, again, fail, signal = null) {
  try {
    await task();
  } catch (error) {
    if (signal?.aborted) return;
    if (error instanceof TokenNeeded) {
      retry = again;
      byId("token-form").hidden = false;
      byId("token").focus();
    }
    fail(error.message);
  }
}

function start() {
  return guarded(async () => {
    state.models = await fetchModels();
    complain("");
    fillModels(state.models);
    chooseModels(state.models[0].name, "");
  }, start, complain);
}

function chooseModels(name, other) {
  const names = other ? [name, other] : [name];
  state.panels = names.map((one) => newPanel(state.models.find((model) => model.name === one)));
  if (!state.thresholdChosen) state.threshold = state.panels[0].model.threshold;
  views = state.panels.flatMap((panel) => [newStage(panel, act), newList(panel, act)]);
  byId("stages").replaceChildren(...views.flatMap((view) => view.figure ?? []));
  byId("lists").replaceChildren(...views.flatMap((view) => view.element ?? []));
  byId("stages").classList.toggle("two", names.length === 2);
  byId("pixel-card").hidden = !state.panels.some((panel) => panel.model.explains);
  update();
  if (state.image) look();
}

async function take(file) {
  taken += 1;
  const number = taken;
  let image;
  try {
    image = await openImage(file);
  } catch (error) {
    if (number === taken) complain(error.message);
    return;
  }
  if (number !== taken) {
    // A later one was decoded sooner.
    image.bitmap.close();
    return;
  }
  state.image?.bitmap.close();
  state.image = image;
  complain("");
  byId("empty").hidden = true;
  byId("stages").hidden = false;
  byId("side").hidden = false;
  byId("choose").textContent = "Another image";
  if (state.panels.length) look();
}

/** Ask all models about the image. */
async function look() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const { file } = state.image;
  close();
  announce("Looking …");
  await Promise.all(state.panels.map((panel) => {
    update({ busy: true, look: null, problem: "", pointed: null }, panel);
    return guarded(
      async () => {
        update({ look: await fetchLook(panel.model, file, signal), busy: false }, panel);
        openAlike(panel);
      },
      look,
      (problem) => update({ problem, busy: false }, panel),
      signal,
    );
  }));
  if (signal.aborted) return;
  const problem = state.panels.map((panel) => panel.problem).find(Boolean);
  if (problem) announce(problem);
  else announceCount();
}

/** Open an object, and in the other panel the one that overlaps it most. */
function open(panel, index) {
  const { class: name, score } = panel.look.objects[index];
  close();
  update({ opened: index }, panel);
  for (const other of state.panels) openAlike(other);
  const last = openLayers(panel).length - 1;
  update({ layer: Math.max(0, last), head: null });
  announce(`${name}, score ${score.toFixed(2)}, opened. ${layerInWords(panel)}`);
}

/** Open the object that overlaps most what is open in the other panel. */
function openAlike(panel) {
  const other = state.panels.find((one) => one !== panel && one.opened !== null);
  if (!other || !panel.look || panel.opened !== null) return;
  const { box } = other.look.objects[other.opened];
  update({ opened: nearest(panel.look.objects, shownIndices(panel), box) }, panel);
}

function showLayer(layer) {
  update({ layer: Math.max(0, Math.min(layer, depth() - 1)) });
  announce(layerInWords(state.panels.find((panel) => openLayers(panel).length)));
}

function layerInWords(panel) {
  if (!openLayers(panel).length) return "";
  const layer = layerOf(panel);
  const { length } = pointsOfLayer(panel, layer);
  return `Layer ${layer + 1} of ${openLayers(panel).length}: ${length} points.`;
}

/** Where the encoder looks from a pixel: asked of every panel. */
async function lookFrom(x, y) {
  if (!state.image) return;
  close();
  askingPixel = new AbortController();
  const { signal } = askingPixel;
  // Down, since the right and lower edges are not in the image.
  const [column, row] = [x, y].map((value) => Math.max(0, Math.floor(value * 10) / 10));
  byId("pixel-x").value = column;
  byId("pixel-y").value = row;
  const able = state.panels.filter((panel) => panel.look && panel.model.explains);
  await Promise.all(able.map((panel) => {
    update({ busy: true, problem: "" }, panel);
    return guarded(
      async () => {
        const pixel = await fetchPixel(panel.model, state.image.file, column, row, signal);
        update({ pixel, busy: false }, panel);
      },
      () => lookFrom(x, y),
      (problem) => update({ problem, busy: false }, panel),
      signal,
    );
  }));
  if (signal.aborted) return;
  const answered = able.find((panel) => panel.pixel);
  if (!answered) {
    announce(able.map((panel) => panel.problem).find(Boolean) ?? "");
    return;
  }
  update({ layer: openLayers(answered).length - 1, head: null, tokenLevel: null });
  announce(`Pixel ${column}, ${row}. ${layerInWords(answered)}`);
}

function close() {
  stop();
  askingPixel.abort();
  for (const panel of state.panels) {
    // Before there is an answer about the image, it is that which keeps the panel busy.
    const busy = panel.busy && !panel.look;
    update({ opened: null, pixel: null, problem: "", busy }, panel);
  }
}

setUpControls({ chooseModels, announce, announceCount });
setUpExplanation({ close, showLayer });
onImage(take);
onChange(() => {
  if (state.image) for (const view of views) view.render();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") close();
});
byId("pixel-form").addEventListener("submit", (event) => {
  event.preventDefault();
  lookFrom(Number(byId("pixel-x").value), Number(byId("pixel-y").value));
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(byId("token").value);
  byId("token-form").hidden = true;
  complain("");
  retry();
});
start();
