"""The classes of a model beside those of a data set it was not trained on: one class where both have the same name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sptcore.data.records import DatasetIndex
from sptcore.errors import DataError
from sptcore.tasks.base import NO_CLASS, ModelSpec

Class = tuple[int, str]
_LISTED = 4


@dataclass(frozen=True)
class ClassMatch:
    """`model` and `data`: (id, name) of each class. `data_id`: the data's id by the model's, where matched."""

    model: tuple[Class, ...]
    data: tuple[Class, ...]
    data_id: Mapping[int, int]

    @property
    def is_whole(self) -> bool:
        """Whether every class of the data is one of the model, under the same id."""
        return all(self.data_id.get(category_id) == category_id for category_id, _ in self.data)

    def in_words(self) -> str:
        """One line: what was matched, what was not on either side, and what follows."""
        moved = sum(one != other for one, other in self.data_id.items())
        found = set(self.data_id.values())
        unknown = [name for category_id, name in self.data if category_id not in found]
        unused = [name for category_id, name in self.model if category_id not in self.data_id]
        parts = [f"{len(found)} of the data's {len(self.data)} classes matched by name"]
        parts[0] += f" ({moved} under another id)" if moved else ""
        if unknown:
            parts.append(f"the model does not know {_some(unknown)}, which count as missed")
        if unused:
            parts.append(f"the data does not know {_some(unused)}, which are left out")
        alike = " (names must be equal: 'airplane' is not 'aeroplane')" if unknown and unused else ""
        return "; ".join(parts) + alike


def match_classes(model: Sequence[Class], data: Sequence[Class]) -> ClassMatch:
    """Pair classes of equal name: those of equal id first, then a name that both sides have left once.

    Names are compared as they are written: no spelling, plural or synonym is guessed.
    """
    given = dict(data)
    pairs = {category_id: category_id for category_id, name in model if given.get(category_id) == name}
    ours, theirs = (_single([one for one in side if one[0] not in pairs]) for side in (model, data))
    pairs |= {category_id: theirs[name] for name, category_id in ours.items() if name in theirs}
    return ClassMatch(tuple(model), tuple(data), pairs)


def match_data(spec: ModelSpec, index: DatasetIndex) -> ClassMatch:
    """`match_classes` of a model and a data set. Raises DataError when they share no class."""
    data = [(one.category_id, one.name) for one in index.categories]
    match = match_classes(spec.categories, data)
    if not match.data_id:
        ours, theirs = (_some([f"{category_id} {name}" for category_id, name in side]) for side in (match.model, data))
        raise DataError(
            f"the model's classes ({ours}) are not those of the data ({theirs})",
            where=str(index.annotation_path),
            hint="evaluate on the data it was trained on, or train on this",
        )
    return match


def renumbered(spec: ModelSpec, match: ClassMatch) -> ModelSpec:
    """`spec` answering in the data's ids; classes the data does not know become NO_CLASS."""
    categories = tuple((match.data_id.get(category_id, NO_CLASS), name) for category_id, name in spec.categories)
    return replace(spec, categories=categories)


def _single(classes: Iterable[Class]) -> dict[str, int]:
    """Name -> id of the names that occur once."""
    listed = list(classes)
    often = Counter(name for _, name in listed)
    return {name: category_id for category_id, name in listed if often[name] == 1}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
