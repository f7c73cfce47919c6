"""Pascal VOC's format: an XML file for each image."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from saccade.data.annotations import Annotations, ImageEntry, ObjectEntry, leads_out
from saccade.data.broken_images import as_sentence
from saccade.data.headers import read_size
from saccade.data.images import image_suffixes
from saccade.data.split import Format, Split


@dataclass(frozen=True)
class VocSplit(Split):
    """The images that a file of ImageSets/Main lists, or all of a folder."""

    ids: tuple[str, ...]
    """The XML files' paths from `annotations`, without suffix."""
    all_annotations: tuple[Path, ...]
    """The folders whose XML files say which classes there are."""

    def read(self) -> Annotations:
        """What the XML files say.

        Classes are those of the whole dataset, so that its splits agree. Corners are pixels counted
        from 1, both included: ``xmin`` 1 is the left edge of the image, ``xmax`` its width the
        right one. Difficult objects become crowds: they are not trained on, and in evaluation
        neither missed nor wrong to find, as the VOC challenge has it. An image whose size is not
        said is opened for it; one is looked for by the XML file's name before the name inside.

        Raises:
            ValueError: If a file is missing or unusable; the message names it.
        """
        roots = {id: _parse(self.annotations / f"{id}.xml") for id in self.ids}
        named = {name for root in roots.values() for name in _names(root)}
        read = {self.annotations / f"{id}.xml" for id in self.ids}
        for folder in self.all_annotations:
            for file in folder.rglob("*.xml"):
                if file not in read:
                    named.update(_names(_parse(file)))
        categories = dict(enumerate(sorted(named), start=1))
        number = {name: id for id, name in categories.items()}
        files = _files_by_stem(self.images)
        images: list[ImageEntry] = []
        objects: list[ObjectEntry] = []
        broken: list[str] = []
        for image_id, (id, root) in enumerate(roots.items(), start=1):
            source = self.annotations / f"{id}.xml"
            file_name = _file_name(root, id, files.get(id, []))
            try:
                size = _size(root) or read_size(self.images / file_name)
            except (ValueError, OSError) as error:
                broken.append(as_sentence(error))
                continue
            images.append(ImageEntry(image_id, file_name, size))
            objects += [_object(source, each, image_id, number) for each in root.iter("object")]
        return Annotations(
            tuple(images), tuple(objects), categories, self.annotations, tuple(broken)
        )

    def annotation_files(self) -> list[Path]:
        """The XML files of this part."""
        return [self.annotations / f"{id}.xml" for id in self.ids]


def _find(folder: Path, split: str) -> VocSplit | None:
    bases = [base for base in _bases(folder) if _list(base, split).is_file()]
    if len(bases) > 1:
        names = " and ".join(str(base) for base in bases)
        raise ValueError(f'{folder} has the split "{split}" more than once: name {names}.')
    if bases:
        return _listed(bases[0], split)
    for name in (split, "valid") if split == "val" else (split,):
        place = folder / name
        ids = tuple(sorted(file.stem for file in place.glob("*.xml")))
        if ids:
            every = sorted({file.parent for file in folder.glob("*/*.xml")})
            return VocSplit(place, place, ids, tuple(every))
    return None


def _sought(split: str) -> list[str]:
    return [
        f"ImageSets/Main/{split}.txt with Annotations/ and JPEGImages/",
        f"{split}/*.xml beside images",
    ]


def _splits(folder: Path) -> list[str]:
    lists = [file.stem for base in _bases(folder) for file in _list(base, "").parent.glob("*.txt")]
    whole = [name for name in lists if not name.endswith(("_train", "_val", "_trainval", "_test"))]
    # Not "Annotations" itself.
    beside = {file.parent for file in folder.glob("*/*.xml") if _has_images(file.parent)}
    return [*whole, *(place.name for place in beside)]


def _has_images(folder: Path) -> bool:
    return any(file.suffix.lower() in image_suffixes() for file in folder.iterdir())


def _bases(folder: Path) -> list[Path]:
    """The folders that have Annotations and JPEGImages: one per year in VOCdevkit."""
    places = [folder, *sorted(folder.glob("VOC*")), *sorted(folder.glob("VOCdevkit/VOC*"))]
    return [
        place
        for place in places
        if (place / "Annotations").is_dir() and (place / "JPEGImages").is_dir()
    ]


def _list(base: Path, split: str) -> Path:
    return base / "ImageSets" / "Main" / f"{split}.txt"


def _listed(base: Path, split: str) -> VocSplit:
    file = _list(base, split)
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text: expected a list of images.") from error
    ids = tuple(dict.fromkeys(line for line in lines if line))
    for id in ids:
        if leads_out(id):
            raise ValueError(f'{file} lists {id!r}: expected names inside "Annotations".')
    annotations = base / "Annotations"
    return VocSplit(base / "JPEGImages", annotations, ids, (annotations,))


def _parse(file: Path) -> Element:
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{file} does not exist, though its image is listed.") from error
    except ElementTree.ParseError as error:
        raise ValueError(f"{file} is not XML ({error}): is it complete?") from error
    if root.tag != "annotation":
        raise ValueError(f'{file} holds "{root.tag}": expected "annotation", as Pascal VOC has it.')
    for position, entry in enumerate(root.iter("object"), start=1):
        if not _text(entry, "name"):
            raise ValueError(f'{file}: object {position} has no "name".')
    return root


def _names(root: Element) -> Iterable[str]:
    return (_text(entry, "name") for entry in root.iter("object"))


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _files_by_stem(folder: Path) -> dict[str, list[str]]:
    suffixes = image_suffixes()
    found: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in suffixes:
            path = file.relative_to(folder)
            found.setdefault(path.with_suffix("").as_posix(), []).append(path.as_posix())
    return found


def _file_name(root: Element, id: str, files: list[str]) -> str:
    """An image of the XML file's name; for many tools leave the name inside as it once was."""
    said = _text(root, "filename")
    if said in files or (not files and said and not leads_out(said)):
        return said
    return files[0] if files else f"{id}.jpg"


def _size(root: Element) -> tuple[int, int] | None:
    """(height, width), or None where the file leaves it out, as zero or altogether."""
    height, width = (_number(_text(root, f"size/{side}")) for side in ("height", "width"))
    return (int(height), int(width)) if height >= 1 and width >= 1 else None


def _object(source: Path, entry: Element, image_id: int, number: dict[str, int]) -> ObjectEntry:
    name = _text(entry, "name")
    sides = [_text(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = map(_number, sides)
    width, height = right - left + 1, bottom - top + 1
    if not (width >= 0 and height >= 0):
        raise ValueError(
            f'{source}: "{name}" has the "bndbox" {" ".join(side or "?" for side in sides)}: '
            "expected xmin ymin xmax ymax in pixels, in this order."
        )
    return ObjectEntry(
        image_id=image_id,
        category_id=number[name],
        box=(left - 1, top - 1, width, height),
        area=width * height,
        crowd=_text(entry, "difficult") in ("1", "true", "True"),
    )


def _number(text: str) -> float:
    """The number, or nan: larger or smaller than nothing."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


VOC = Format(_find, _sought, _splits)
