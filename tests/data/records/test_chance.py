from __future__ import annotations

from mml_lightning.data.records import chance
from mml_lightning.data.records.records import Dataset, Head, Record


def records(split: str, labels: list[int | None]) -> list[Record]:
    targets = [{} if label is None else {"label": label} for label in labels]
    return [Record(f"{split}{number}", {}, target) for number, target in enumerate(targets)]


def dataset(**labels: list[int | None]) -> Dataset:
    splits = {split: records(split, found) for split, found in labels.items()}
    return Dataset("own", splits, {"label": Head(("a", "b", "c", "d"))})


def test_majority_is_of_train_and_measured_everywhere():
    data = dataset(train=[2, 2, 1, 0], val=[2, 0, 0, 0, 0], test=[1, 1])
    found = chance.chances(data)["label"]
    assert (found.guessing, found.majority) == (25.0, "c")
    assert found.shares == {"train": 50.0, "val": 20.0, "test": 0.0}
    assert chance.describe(data) == (
        "25.0% by guessing; always 'c', the majority class of train: train 50.0%, val 20.0%, test 0.0%"
    )


def test_of_equally_frequent_classes_the_first_and_unlabelled_videos_do_not_count():
    found = chance.chances(dataset(train=[3, 1, 1, 3], val=[1, None], test=[None]))["label"]
    assert found.majority == "b" and found.shares == {"train": 50.0, "val": 100.0}


def test_heads_are_told_apart_and_several_labels_have_no_chance_level():
    heads = {"verb": Head(("a", "b")), "noun": Head(("x", "y", "z")), "tags": Head(("p", "q"), multi_label=True)}
    rows = [Record(str(number), {}, {"verb": 0, "noun": 2, "tags": (0, 1)}) for number in range(3)]
    data = Dataset("own", {"train": rows, "val": rows}, heads)
    assert set(chance.chances(data)) == {"verb", "noun"}
    assert chance.describe(data) == (
        "verb: 50.0% by guessing; always 'a', the majority class of train: train 100.0%, val 100.0%; "
        "noun: 33.3% by guessing; always 'z', the majority class of train: train 100.0%, val 100.0%"
    )
    only = Dataset("own", {"train": rows}, {"tags": heads["tags"]})
    assert chance.describe(only) == ""
