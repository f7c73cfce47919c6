// How an image gets into the page: dropped, pasted or chosen.

/** Larger ones are shown smaller, so that drawing stays fast; the server gets the file as it is. */
const LONGEST_SIDE = 2048;

/** Decode a file for display, upright as the server reads it. */
export async function openImage(file) {
  let whole;
  try {
    whole = await createImageBitmap(file);
  } catch {
    throw new Error(
      `This browser cannot show ${file.name || "that file"}: ` +
        "choose an image in JPEG, PNG, WebP, GIF or BMP.",
    );
  }
  const shrink = LONGEST_SIDE / Math.max(whole.width, whole.height);
  const name = file.name || "image";
  if (shrink >= 1) return { file, name, bitmap: whole };
  const bitmap = await createImageBitmap(whole, {
    resizeWidth: Math.max(1, Math.round(whole.width * shrink)),
    resizeHeight: Math.max(1, Math.round(whole.height * shrink)),
    resizeQuality: "high",
  });
  whole.close();
  return { file, name, bitmap };
}

/** Call `take(file)` for every image that is dropped on the page, pasted or chosen. */
export function onImage(take) {
  const input = document.getElementById("file");
  document.getElementById("choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files.length) take(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData?.files.length) take(event.clipboardData.files[0]);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}
