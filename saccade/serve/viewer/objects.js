// The objects of a panel as a list, which is how the keyboard and screen readers reach them.

import { classColour } from "./colours.js";
import { isShown, layerOf, openLayers, state, update } from "./state.js";

/** Make the list of a panel; `act` holds what the keys do. Returns its element and renderer. */
export function newList(panel, act) {
  const element = document.createElement("div");
  const title = document.createElement("h3");
  title.textContent = panel.model.name;
  const list = document.createElement("ul");
  list.className = "objects";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", `Objects found by ${panel.model.name}`);
  list.setAttribute("aria-describedby", "keys");
  const nothing = document.createElement("p");
  nothing.className = "quiet";
  nothing.textContent = "None; lower the score or tick more classes.";
  element.append(title, list, nothing);
  list.addEventListener("keydown", (event) => onKey(event, list, panel, act));
  let listed = null;

  const render = () => {
    const objects = panel.look?.objects ?? [];
    if (listed !== objects) {
      listed = objects;
      list.replaceChildren(...objects.map((object, index) => newItem(object, index, panel, act)));
    }
    const shown = [...list.children].filter((item, index) => {
      item.hidden = !isShown(objects[index]);
      item.setAttribute("aria-selected", String(index === panel.opened));
      item.classList.toggle("pointed", index === panel.pointed);
      return !item.hidden;
    });
    // One stop of the Tab key for the whole list: where the keys were last, else its first.
    const stop = shown.find((item) => item.tabIndex === 0) ?? shown[0];
    for (const item of list.children) item.tabIndex = item === stop ? 0 : -1;
    title.hidden = state.panels.length < 2;
    list.hidden = shown.length === 0;
    nothing.hidden = shown.length > 0 || !panel.look;
  };
  return { element, render };
}

function newItem(object, index, panel, act) {
  const item = document.createElement("li");
  item.setAttribute("role", "option");
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.background = classColour(object.label);
  const name = document.createElement("span");
  name.textContent = object.class;
  const score = document.createElement("span");
  score.className = "number";
  score.textContent = object.score.toFixed(2);
  item.append(swatch, name, " ", score);
  item.addEventListener("click", () => act.open(panel, index));
  item.addEventListener("pointerenter", () => update({ pointed: index }, panel));
  item.addEventListener("pointerleave", () => update({ pointed: null }, panel));
  item.addEventListener("focus", () => update({ pointed: index }, panel));
  item.addEventListener("blur", () => update({ pointed: null }, panel));
  return item;
}

function onKey(event, list, panel, act) {
  const item = event.target.closest("[role=option]");
  const shown = [...list.children].filter((one) => !one.hidden);
  const place = shown.indexOf(item);
  const goals = { ArrowUp: place - 1, ArrowDown: place + 1, Home: 0, End: shown.length - 1 };
  const turns = { ArrowLeft: -1, ArrowRight: 1 };
  if (event.key in goals) {
    const goal = shown[Math.min(Math.max(goals[event.key], 0), shown.length - 1)];
    item.tabIndex = -1;
    goal.tabIndex = 0;
    goal.focus();
  } else if (event.key === "Enter" || event.key === " ") {
    act.open(panel, [...list.children].indexOf(item));
  } else if (event.key in turns && openLayers(panel).length) {
    act.showLayer(layerOf(panel) + turns[event.key]);
  } else {
    return;
  }
  event.preventDefault();
}
