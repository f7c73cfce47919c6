"""What is written of one image."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervision import Detections


def to_record(
    file: str, size: tuple[int, int], detections: "Detections", picture: str | None = None
) -> dict[str, Any]:
    """One image's detections for JSON, best first.

    Args:
        file: Which image, as people named it.
        size: Its (height, width) in pixels.
        detections: In pixels of the image.
        picture: The name of the picture with its boxes, if there is one.

    Returns:
        ``file``, ``width``, ``height``, ``picture`` if there is one, and ``detections``, each with
        ``class``, ``score`` (four decimals) and ``box``: ``x0, y0, x1, y1`` in pixels (two).
    """
    assert detections.confidence is not None
    rows = zip(detections.data["class_name"], detections.confidence, detections.xyxy, strict=True)
    return {
        "file": file,
        "width": size[1],
        "height": size[0],
        **({} if picture is None else {"picture": picture}),
        "detections": [
            {
                "class": str(name),
                "score": round(float(score), 4),
                "box": [round(float(side), 2) for side in box],
            }
            for name, score, box in rows
        ],
    }


def to_coco_results(
    image_id: int, category_ids: dict[int, int], detections: "Detections"
) -> list[dict[str, Any]]:
    """One image's detections as COCO's tools read them.

    Args:
        image_id: COCO's.
        category_ids: Category by label; detections of other labels are left out.
        detections: In pixels of the image.

    Returns:
        Each with ``image_id``, ``category_id``, ``bbox``: ``x, y, width, height`` in pixels, and
        ``score``.
    """
    assert detections.confidence is not None
    assert detections.class_id is not None
    rows = zip(detections.class_id, detections.confidence, detections.xyxy.tolist(), strict=True)
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[int(label)],
            "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(float(score), 5),
        }
        for label, score, (x0, y0, x1, y1) in rows
        if int(label) in category_ids
    ]
