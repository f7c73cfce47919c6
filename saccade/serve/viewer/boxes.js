// Geometry of boxes [x0, y0, x1, y1] and points, in pixels of the image.

export function area([x0, y0, x1, y1]) {
  return Math.max(0, x1 - x0) * Math.max(0, y1 - y0);
}

export function contains([x0, y0, x1, y1], x, y) {
  return x >= x0 && x <= x1 && y >= y0 && y <= y1;
}

export function overlap(a, b) {
  const common = area([
    Math.max(a[0], b[0]),
    Math.max(a[1], b[1]),
    Math.min(a[2], b[2]),
    Math.min(a[3], b[3]),
  ]);
  const union = area(a) + area(b) - common;
  return union > 0 ? common / union : 0;
}

/** The index in `indices` of the object that overlaps a box most; null if none does by a tenth. */
export function nearest(objects, indices, box) {
  let best = null;
  let most = 0.1;
  for (const index of indices) {
    const common = overlap(objects[index].box, box);
    if (common > most) [best, most] = [index, common];
  }
  return best;
}

/** Of the objects under a point the smallest, so that one inside another can be reached. */
export function smallestAt(objects, indices, x, y) {
  const under = indices.filter((index) => contains(objects[index].box, x, y));
  under.sort((a, b) => area(objects[a].box) - area(objects[b].box));
  return under[0] ?? null;
}

/** The centre of a reference, which is a point or a box. */
export function centre(reference) {
  if (reference.length === 2) return reference;
  const [x0, y0, x1, y1] = reference;
  return [(x0 + x1) / 2, (y0 + y1) / 2];
}

export function between(a, b, share) {
  return a.map((value, side) => value + (b[side] - value) * share);
}
