// What the marks in the picture mean: the style sheet draws them as the canvas does.

import { layerOf, openLayers } from "./state.js";

/** The entries of the legend for what is open in a panel. */
export function newLegend(panel) {
  const layer = layerOf(panel);
  const entries = [["weight", "weight, little to much"]];
  if (panel.opened !== null) {
    const reference = openLayers(panel)[layer]?.reference;
    entries.push(["box", "box after this layer"]);
    if (layer > 0) entries.push(["earlier", "after earlier layers"]);
    if (reference?.length === 4) entries.push(["reference", "reference before it"]);
    if (reference?.length === 2) entries.push(["cross", "reference point"]);
    if (panel.look.objects[panel.opened].proposal) entries.push(["proposal", "proposal it began as"]);
  } else {
    entries.push(["cross", "the pixel"], ["cell", "tokens that look"]);
  }
  return entries.map(([kind, text]) => {
    const item = document.createElement("li");
    const mark = document.createElement("span");
    mark.className = `mark ${kind}`;
    item.append(mark, text);
    return item;
  });
}
