// The picture of a panel on its canvas. Lengths of lines are in CSS pixels, boxes in image pixels.

import { between, centre } from "./boxes.js";
import { classColour, traceLevel, weightColour } from "./colours.js";
import {
  isOpen, layerOf, openLayers, pointsOfLayer, shownIndices, shownPoints, shownProposals, shownTokens,
  state,
} from "./state.js";

const WHITE = "#fff";
const REFERENCE = "#5ce1e6";
const PROPOSAL = "#c8f26b";
const CASING = "rgb(0 0 0 / 55%)";

/** Draw a panel. `progress` is the layer that is shown, with a fraction while the box moves. */
export function drawPanel(context, panel, progress) {
  const { width, height } = context.canvas;
  const { bitmap } = state.image;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.drawImage(bitmap, 0, 0, width, height);
  if (!panel.look) return;
  const pen = newPen(context, panel.look.image, devicePixelRatio);
  const proposals = shownProposals(panel);
  if (isOpen(panel) || proposals.length) {
    context.fillStyle = isOpen(panel) ? "rgb(8 9 16 / 58%)" : "rgb(8 9 16 / 40%)";
    context.fillRect(0, 0, width, height);
  }
  drawProposals(pen, proposals);
  if (panel.opened !== null) drawQuery(pen, panel, progress);
  else if (panel.pixel) drawTokens(pen, panel);
  else drawObjects(pen, panel);
  drawPointed(pen, panel);
}

function newPen(context, image, ratio) {
  const { width, height } = context.canvas;
  const [right, down] = [width / image.width, height / image.height];
  const place = ([x, y]) => [x * right, y * down];
  const stroke = (box, colour, { line = 2, dash = [], casing = CASING } = {}) => {
    // On whole pixels lines are sharp.
    const corner = place(box).map(Math.round);
    const end = place(box.slice(2)).map(Math.round);
    const size = [end[0] - corner[0], end[1] - corner[1]];
    context.setLineDash(dash.map((length) => length * ratio));
    for (const [style, extra] of [[casing, 2], [colour, 0]]) {
      context.strokeStyle = style;
      context.lineWidth = (line + extra) * ratio;
      context.strokeRect(...corner, ...size);
    }
    context.setLineDash([]);
  };
  return { context, ratio, place, stroke };
}

function drawObjects(pen, panel) {
  const { objects } = panel.look;
  // The best last, so that nothing covers it.
  for (const index of shownIndices(panel).reverse()) {
    const { box, label } = objects[index];
    pen.stroke(box, classColour(label), { casing: "rgb(255 255 255 / 80%)" });
  }
  // On a small picture labels would hide it; the list has them too.
  if (pen.context.canvas.width < 260 * pen.ratio) return;
  for (const index of shownIndices(panel).reverse()) drawLabel(pen, objects[index]);
}

function drawPointed(pen, panel) {
  if (panel.pointed === null || panel.pointed === panel.opened) return;
  const object = panel.look.objects[panel.pointed];
  pen.stroke(object.box, classColour(object.label), { line: 3, casing: WHITE });
  drawLabel(pen, object);
}

function drawLabel({ context, ratio, place }, { box, label, score, class: name }) {
  context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
  const text = `${name} ${score.toFixed(2)}`;
  const [width, height] = [context.measureText(text).width + 10 * ratio, 18 * ratio];
  const [left, top] = place(box);
  const x = Math.max(0, Math.min(left - ratio, context.canvas.width - width));
  const y = top >= height ? top - height : top;
  context.fillStyle = classColour(label);
  context.fillRect(x, y, width, height);
  context.fillStyle = WHITE;
  context.textBaseline = "middle";
  context.fillText(text, x + 5 * ratio, y + height / 2 + ratio / 2);
}

function drawProposals(pen, proposals) {
  const best = proposals[0]?.score || 1;
  for (const { box, score } of [...proposals].reverse()) {
    pen.context.globalAlpha = 0.4 + 0.6 * Math.max(0, Math.min(score / best, 1));
    pen.stroke(box, PROPOSAL, { line: 1, dash: [4, 3], casing: "transparent" });
  }
  pen.context.globalAlpha = 1;
}

function drawQuery(pen, panel, progress) {
  const object = panel.look.objects[panel.opened];
  const { layers, proposal } = object;
  const layer = layerOf(panel);
  if (proposal) pen.stroke(proposal.box, PROPOSAL, { line: 1.5, dash: [2, 3] });
  for (let earlier = 0; earlier < layer; earlier += 1) {
    pen.context.globalAlpha = 0.25 + (0.45 * (earlier + 1)) / layer;
    pen.stroke(layers[earlier].box, WHITE, { line: 1 });
  }
  pen.context.globalAlpha = 1;
  const reference = layers[layer]?.reference;
  const box = layers.length ? boxAt(layers, progress) : object.box;
  pen.stroke(box, WHITE, { line: 2.5 });
  if (reference?.length === 4) pen.stroke(reference, REFERENCE, { line: 1.5, dash: [6, 4] });
  drawPoints(pen, panel);
  if (reference) drawCross(pen, centre(reference));
  drawLabel(pen, { ...object, box, score: layers[layer]?.score ?? object.score });
}

function boxAt(layers, progress) {
  const low = Math.max(0, Math.min(Math.floor(progress), layers.length - 1));
  const high = Math.min(low + 1, layers.length - 1);
  return between(layers[low].box, layers[high].box, Math.max(0, progress - low));
}

function drawTokens(pen, panel) {
  const { levels, image } = panel.look;
  for (const token of shownTokens(panel)) {
    const { width, height } = levels[token.level] ?? {};
    if (!width) continue;
    const [x, y] = token.centre;
    const half = [image.width / width / 2, image.height / height / 2];
    const cell = [x - half[0], y - half[1], x + half[0], y + half[1]];
    pen.stroke(cell, WHITE, { line: 1, dash: [4, 3] });
  }
  drawPoints(pen, panel);
  drawCross(pen, panel.pixel.pixel);
}

function drawPoints(pen, panel) {
  const most = Math.max(...pointsOfLayer(panel, layerOf(panel)).map((point) => point[2]), 1e-9);
  // The heaviest last, so that it lies on top.
  const points = shownPoints(panel).sort((a, b) => a[2] - b[2]);
  for (const [x, y, weight, level] of points) {
    drawPoint(pen.context, level, ...pen.place([x, y]), weight / most, pen.ratio);
  }
}

export function drawPoint(context, level, x, y, share, ratio) {
  traceLevel(context, level, x, y, (2.4 + 3.6 * Math.sqrt(share)) * ratio);
  context.fillStyle = weightColour(share);
  context.fill();
  context.strokeStyle = CASING;
  context.lineWidth = ratio;
  context.stroke();
}

function drawCross({ context, ratio, place }, point) {
  const [x, y] = place(point);
  const reach = 7 * ratio;
  for (const [colour, line] of [[CASING, 4], [REFERENCE, 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = line * ratio;
    context.beginPath();
    context.moveTo(x - reach, y);
    context.lineTo(x + reach, y);
    context.moveTo(x, y - reach);
    context.lineTo(x, y + reach);
    context.stroke();
  }
}
