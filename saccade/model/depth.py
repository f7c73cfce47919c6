"""Where in a detector a parameter sits, for learning rates that fall with the distance."""

from collections.abc import Iterator, Sequence

from torch import nn

Layers = dict[str, list[nn.Parameter]]
"""From the image to the heads."""


def layers_from_image(model: nn.Module) -> Layers:
    """Every parameter of a `DetectorModel`, by the layer that it belongs to.

    The backbone's stem and stages; the neck, with positions and token selection; the encoder's
    layers; the queries, with those that only training has; the decoder's layers; the heads, with
    those of the first stage and whatever has no other place.
    """
    layers: Layers = {}
    seen: set[int] = set()

    def add(name: str, parameters: Iterator[nn.Parameter]) -> None:
        found = [each for each in parameters if id(each) not in seen]
        seen.update(map(id, found))
        if found:
            layers.setdefault(name, []).extend(found)

    backbone = model.get_submodule("backbone")
    for name, part in stages(backbone.get_submodule("body"), getattr(backbone, "stage_paths", ())):
        add(f"backbone.{name}", iter(part))
    for name in ("neck", "positions", "selection"):
        add("neck", _parameters(model, name))
    for index, layer in enumerate(model.get_submodule("encoder.layers").children()):
        add(f"encoder.layers.{index}", layer.parameters())
    heads = [
        parameter
        for name in ("class_head", "box_head")
        for parameter in _parameters(model.get_submodule("queries"), name)
    ]
    seen.update(map(id, heads))
    for name in ("queries", "denoising", "one_to_many"):
        add("queries", _parameters(model, name))
    for index, layer in enumerate(model.get_submodule("decoder.layers").children()):
        add(f"decoder.layers.{index}", layer.parameters())
    seen.difference_update(map(id, heads))
    add("heads", model.parameters())
    return layers


def stages(body: nn.Module, paths: Sequence[str]) -> list[tuple[str, list[nn.Parameter]]]:
    """The stem of a network and its stages, in the order in which they are registered.

    What lies between two stages belongs to the later one, what follows the last one to it. Where
    the paths are not known, each child of the network is one.
    """
    known = [path for path in paths if path] or [name for name, _ in body.named_children()]
    found: list[tuple[str, list[nn.Parameter]]] = [("stem", [])]
    belongs = {
        id(each): index
        for index, path in enumerate(known, start=1)
        for each in body.get_submodule(path).parameters()
    }
    found += [(path, []) for path in known]
    waiting: list[nn.Parameter] = []
    last = 0
    for parameter in body.parameters():
        index = belongs.get(id(parameter))
        if index is None:
            waiting.append(parameter)
            continue
        # Before the first stage lies the stem.
        found[index if last else 0][1].extend(waiting)
        found[index][1].append(parameter)
        waiting, last = [], index
    found[last][1].extend(waiting)
    return [(name, part) for name, part in found if part]


def _parameters(module: nn.Module, name: str) -> Iterator[nn.Parameter]:
    child = getattr(module, name, None)
    return child.parameters() if isinstance(child, nn.Module) else iter(())
