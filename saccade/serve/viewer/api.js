// Questions to the server. Addresses are relative, so that it may lie behind a proxy's prefix.

export class TokenNeeded extends Error {}

const TRIES = 4; // of a question that a busy server puts off
const PATIENCE = 5; // seconds that it may be put off, each time
let token = ""; // kept for this page only: never stored

export function useToken(value) {
  token = value;
}

export function fetchModels() {
  return ask("models");
}

/** What the model finds and where its queries looked; for engines that cannot say, boxes alone. */
export async function fetchLook(model, file, signal) {
  if (model.explains) return ask("look", { model: model.name, top_k: 100 }, file, signal);
  const found = await ask(
    "predict", { model: model.name, threshold: 0, top_k: 100 }, file, signal,
  );
  const objects = found.detections.map((one) => ({ ...one, proposal: null, layers: [] }));
  return { image: found.image, levels: [], kind: "none", objects, proposals: [] };
}

export function fetchPixel(model, file, x, y, signal) {
  return ask("look/pixel", { model: model.name, x, y }, file, signal);
}

async function ask(path, query = {}, file = null, signal = undefined) {
  const options = { signal, headers: token ? { Authorization: `Bearer ${token}` } : {} };
  if (file) {
    options.method = "POST";
    options.body = new FormData();
    options.body.append("image", file);
  }
  const response = await fetchPatiently(`${path}?${new URLSearchParams(query)}`, options);
  if (response.status === 401) throw new TokenNeeded("This server asks for a token.");
  if (!response.ok) throw new Error(await sentenceOf(response));
  return response.json();
}

/** Asks again when the server has said that it will have time then. */
async function fetchPatiently(address, options) {
  for (let tries = 1; ; tries += 1) {
    let response;
    try {
      response = await fetch(address, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer: is saccade serve still running?");
    }
    const seconds = Number(response.headers.get("Retry-After") ?? 1);
    if (response.status !== 429 || tries === TRIES || seconds > PATIENCE) return response;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

async function sentenceOf(response) {
  const fallback = `The server answered ${response.status} ${response.statusText}.`;
  try {
    const { detail } = await response.json();
    // FastAPI describes invalid parameters in a list.
    if (Array.isArray(detail)) return detail.map((one) => one.msg).join("; ");
    return detail ? String(detail) : fallback;
  } catch {
    return fallback;
  }
}
