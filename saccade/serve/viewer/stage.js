// A panel on the page: the picture with what is drawn on it, and its caption.

import { smallestAt } from "./boxes.js";
import { drawPanel } from "./drawing.js";
import { layerOf, openLayers, shownIndices, shownPoints, state, update } from "./state.js";

const MOVING = 320; // milliseconds that the box takes from one layer to the next
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** Make the figure of a panel; `act` holds what a click does. Returns its element and renderer. */
export function newStage(panel, act) {
  const figure = document.createElement("figure");
  figure.className = "stage";
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  const caption = document.createElement("figcaption");
  figure.append(canvas, caption);
  const context = canvas.getContext("2d");
  const motion = { shown: 0, from: 0, to: 0, start: -Infinity, opened: null, frame: 0 };

  const indexAt = (event) => {
    const [x, y] = pixelAt(event, canvas, panel);
    return smallestAt(panel.look.objects, shownIndices(panel), x, y);
  };
  canvas.addEventListener("pointermove", (event) => {
    if (!panel.look || event.pointerType === "touch") return;
    const pointed = indexAt(event);
    canvas.classList.toggle("on-object", pointed !== null);
    if (pointed !== panel.pointed) update({ pointed }, panel);
  });
  canvas.addEventListener("pointerleave", () => update({ pointed: null }, panel));
  canvas.addEventListener("click", (event) => {
    if (!panel.look) return;
    const index = indexAt(event);
    if (index !== null) act.open(panel, index);
    else act.lookFrom(...pixelAt(event, canvas, panel));
  });
  new ResizeObserver(() => update()).observe(canvas);

  const paint = (now) => {
    const elapsed = Math.min(1, Math.max(0, (now - motion.start) / MOVING));
    motion.shown = motion.from + (motion.to - motion.from) * (1 - (1 - elapsed) ** 3);
    drawPanel(context, panel, motion.shown);
    if (elapsed < 1) motion.frame = requestAnimationFrame(paint);
  };

  const render = () => {
    const { bitmap } = state.image;
    canvas.style.setProperty("--ratio", bitmap.width / bitmap.height);
    fit(canvas, bitmap);
    describe(canvas, caption, panel);
    figure.classList.toggle("busy", panel.busy);
    const layer = layerOf(panel);
    if (layer !== motion.to || panel.opened !== motion.opened) {
      const moves = panel.opened !== null && panel.opened === motion.opened && !calm.matches;
      const start = moves ? performance.now() : -Infinity;
      Object.assign(motion, { from: moves ? motion.shown : layer, to: layer, start });
      motion.opened = panel.opened;
    }
    cancelAnimationFrame(motion.frame);
    paint(performance.now());
  };
  return { figure, render };
}

function pixelAt(event, canvas, panel) {
  const { width, height } = panel.look.image;
  const frame = canvas.getBoundingClientRect();
  return [
    ((event.clientX - frame.left) / frame.width) * width,
    ((event.clientY - frame.top) / frame.height) * height,
  ];
}

/** As many canvas pixels as the screen has beneath it. */
function fit(canvas, bitmap) {
  const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  const height = Math.max(1, Math.round((width * bitmap.height) / bitmap.width));
  if (canvas.width !== width || canvas.height !== height) {
    Object.assign(canvas, { width, height });
  }
}

function describe(canvas, caption, panel) {
  const shown = shownIndices(panel).length;
  const name = document.createElement("strong");
  name.textContent = panel.model.name;
  let text = `${shown} ${shown === 1 ? "object" : "objects"}`;
  if (panel.busy) text = "looking …";
  else if (panel.problem) text = panel.problem;
  else if (!panel.look) text = "";
  else if (panel.opened === null && state.panels.some((other) => other.opened !== null)) {
    text += ", none of them there";
  }
  caption.replaceChildren(name, ` ${text}`);
  caption.classList.toggle("problem", Boolean(panel.problem));
  canvas.setAttribute("aria-label", `${state.image.name} with what ${panel.model.name} finds`);
  Object.assign(canvas.dataset, {
    objects: shown,
    opened: panel.opened ?? "",
    pointed: panel.pointed ?? "",
    layer: openLayers(panel).length ? layerOf(panel) + 1 : "",
    points: shownPoints(panel).length,
  });
}
