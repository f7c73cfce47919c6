// The colours of classes and weights, and the shapes of levels.

// Dark enough for white letters; the colours of the library's other pictures.
const CLASSES = [
  "#d1105a", "#1f4fd8", "#0b7a3b", "#b35900", "#6a1fb0", "#007a87", "#8a6d00", "#5b3a1e",
];

export function classColour(label) {
  return CLASSES[label % CLASSES.length];
}

// From little weight to much; readable on the darkened image.
const RAMP = [[96, 94, 214], [190, 62, 160], [240, 98, 82], [250, 176, 84], [255, 246, 186]];

/** The colour of a weight as a share, 0 to 1, of the largest. */
export function weightColour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  const mixed = RAMP[low].map((value, channel) =>
    Math.round(value + (RAMP[low + 1][channel] - value) * (place - low)),
  );
  return `rgb(${mixed.join(" ")})`;
}

/** Trace the shape of a level: circle, square, diamond, triangle, and again. */
export function traceLevel(context, level, x, y, radius) {
  context.beginPath();
  const kind = level % 4;
  if (kind === 0) {
    context.arc(x, y, radius, 0, 2 * Math.PI);
    return;
  }
  // As large to the eye as the circle.
  const reach = radius * [1, 1.25, 1.25, 1.45][kind];
  const [corners, first] = [[4, Math.PI / 4], [4, 0], [3, -Math.PI / 2]][kind - 1];
  for (let corner = 0; corner < corners; corner += 1) {
    const angle = first + (corner * 2 * Math.PI) / corners;
    context.lineTo(x + reach * Math.cos(angle), y + reach * Math.sin(angle));
  }
  context.closePath();
}
