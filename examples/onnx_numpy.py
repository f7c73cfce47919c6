"""What an exported detector finds, with numpy and onnxruntime alone: FILE.onnx IMAGE."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
picture = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
height, width = session.get_inputs()[0].shape[2:]
if not (isinstance(height, int) and isinstance(width, int)):
    shorter, longer = sorted(picture.size)
    limit = round(int(about["max_side"]) * shorter / longer)
    scaled = min(int(about["short_side"]), limit)
    width, height = (scaled if x == shorter else int(scaled * x / shorter) for x in picture.size)
pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
logits, boxes = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
if about["classification"] == "sigmoid":
    scores = 1 / (1 + np.exp(-logits[0]))
else:
    powers = np.exp(logits[0] - logits[0].max(-1, keepdims=True))
    scores = (powers / powers.sum(-1, keepdims=True))[:, :-1]
    scores *= scores == scores.max(-1, keepdims=True)  # a query speaks for its best class
names = json.loads(about["class_names"])
found = np.argwhere(scores >= float(about["threshold"]))
for query, label in sorted(found, key=lambda pair: -scores[tuple(pair)]):
    centre, size = boxes[0, query].reshape(2, 2) * picture.size
    corners = np.concatenate([centre - size / 2, centre + size / 2]).round(1)
    print(names[label], f"{scores[query, label]:.4f}", *corners, sep="\t")
