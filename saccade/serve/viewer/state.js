// What the page knows, and the questions that are asked of it. Nothing here touches the document.

export const state = {
  models: [],
  image: null, // { file, name, bitmap }
  panels: [], // one for each model that is shown; see newPanel
  threshold: 0.3,
  thresholdChosen: false, // by hand: another model's own threshold no longer replaces it
  hiddenClasses: new Set(),
  showProposals: false,
  layer: 0, // counted from 0, shared by the panels
  head: null, // null: all of them
  hiddenLevels: new Set(),
  tokenLevel: null, // in the encoder: the level of the tokens that look, null: all of them
};

export function newPanel(model) {
  return {
    model,
    look: null, // the answer of /look, or what stands for it
    opened: null, // the index of the object whose query is explained
    pointed: null, // the index of the object under the pointer or the keyboard
    pixel: null, // the answer of /look/pixel
    busy: false,
    problem: "",
  };
}

const listeners = [];
let scheduled = false;

export function onChange(listener) {
  listeners.push(listener);
}

/** Merge changes and draw once, however many there are before the next frame. */
export function update(changes = {}, target = state) {
  Object.assign(target, changes);
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    for (const listener of listeners) listener();
  });
}

export function isShown(object) {
  return object.score >= state.threshold && !state.hiddenClasses.has(object.class);
}

/** The indices of the objects that pass the threshold and the class filter, best first. */
export function shownIndices(panel) {
  const objects = panel.look?.objects ?? [];
  return objects.flatMap((object, index) => (isShown(object) ? [index] : []));
}

/** [class, how many pass the threshold in each panel], most frequent first. */
export function classCounts() {
  const counts = new Map();
  for (const [place, panel] of state.panels.entries()) {
    for (const object of panel.look?.objects ?? []) {
      if (!counts.has(object.class)) counts.set(object.class, state.panels.map(() => 0));
      if (object.score >= state.threshold) counts.get(object.class)[place] += 1;
    }
  }
  const total = ([, numbers]) => numbers.reduce((sum, number) => sum + number, 0);
  return [...counts].sort((a, b) => total(b) - total(a) || a[0].localeCompare(b[0]));
}

/** The layers of what is open in a panel: of the decoder, or of one token in the encoder. */
export function openLayers(panel) {
  if (panel.opened !== null) return panel.look.objects[panel.opened].layers;
  return shownTokens(panel)[0]?.layers ?? [];
}

export function shownTokens(panel) {
  const tokens = panel.pixel?.tokens ?? [];
  return tokens.filter((token) => state.tokenLevel === null || token.level === state.tokenLevel);
}

/** Models may differ in depth: the deeper one sets the slider, the other stops at its last layer. */
export function layerOf(panel) {
  return Math.max(0, Math.min(state.layer, openLayers(panel).length - 1));
}

/** The points [x, y, weight, level, head] of a layer of what is open, whatever is filtered. */
export function pointsOfLayer(panel, layer) {
  if (panel.opened !== null) return openLayers(panel)[layer]?.points ?? [];
  return shownTokens(panel).flatMap((token) => token.layers[layer]?.points ?? []);
}

export function shownPoints(panel) {
  // A model of one level has no switch for it.
  const hidden = panel.look?.levels.length > 1 ? state.hiddenLevels : new Set();
  return pointsOfLayer(panel, layerOf(panel)).filter(
    ([, , , level, head]) => !hidden.has(level) && (state.head === null || head === state.head),
  );
}

export function shownProposals(panel) {
  return state.showProposals ? (panel.look?.proposals ?? []) : [];
}

export function isOpen(panel) {
  return panel.opened !== null || panel.pixel !== null;
}
