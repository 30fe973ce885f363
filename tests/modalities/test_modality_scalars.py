import pytest
import torch

from sensorium.modalities.scalars import Categories, Category, Number
from sensorium.types import BadValue, Field


def fitted(kind, values, **settings):
    field = Field(name="label", modality=kind.name, **settings)
    return field.replace(fitted=kind.fit(field, values))


def test_category_codes_are_sorted_names():
    kind = Category()
    field = fitted(kind, ["cat", "dog", None, "ant", "dog"])
    assert field.fitted == {"classes": ["ant", "cat", "dog"], "counts": [1, 1, 2]}
    codes = [kind.decode(raw, field, None) for raw in ("dog", " ant ")]
    values, mask = kind.collate(codes, field, None)
    assert values.tolist() == [2, 0]
    assert values.dtype == torch.int64
    assert mask is None
    assert kind.show(codes[0], field) == "dog"
    assert kind.show("dog", field) == "dog"


def test_numbers_as_classes_are_sorted_by_size_and_shown_as_themselves():
    kind = Category()
    field = fitted(kind, [10, 9, 2.0, "nan?"])
    assert field.fitted["classes"] == ["2", "9", "10", "nan?"]
    code = kind.decode(9.0, field, None)
    assert code == 1
    assert kind.show(code, field) == "9"
    assert kind.show(2, field) == "2"  # raw


def test_order_of_classes_can_be_given():
    field = fitted(Category(), ["low", "high"], options={"classes": ["low", "middle", "high"]})
    assert Category().decode("high", field, None) == 2
    assert field.fitted["counts"] == [1, 0, 1]


def test_unseen_class_is_named_with_the_nearest():
    field = fitted(Category(), ["benign", "malignant"]).replace(role="label")
    with pytest.raises(BadValue, match=r"'label'.*'malignnant'.*Did you mean 'malignant'"):
        Category().decode("malignnant", field, None)


def test_unseen_class_of_a_field_that_is_only_read_does_not_cost_the_row():
    kind = Category()
    field = fitted(kind, ["cat", "dog"])
    code = kind.decode("fish", field, None)
    assert code == 2
    assert kind.show(code, field) == "(not seen in training)"
    several = fitted(Categories(), ["cat;dog"])
    assert Categories().decode("fish;dog", several, None).tolist() == [0, 1]


def test_two_fields_do_not_share_codes():
    kind = Category()
    first, second = fitted(kind, ["a", "b"]), fitted(kind, ["b", "c"])
    assert [kind.decode("b", field, None) for field in (first, second, first)] == [1, 0, 1]


def test_classes_of_boxes_are_aligned():
    kind = Category()
    field = Field(name="class", modality="category", of="boxes")
    assert kind.entries(["a", "b", "a"], field) == ["a", "b", "a"]
    with pytest.raises(BadValue, match=r"1 of 3 entries are empty.*'boxes'"):
        kind.entries(["a", None, "a"], field)
    found = kind.fit(field, [["b"], ["a", None], ["a", "c"]])
    assert found == {"classes": ["a", "b", "c"], "counts": [1, 1, 1]}


def test_categories_are_multi_hot():
    kind = Categories()
    field = fitted(kind, ["cat; dog", ["ant"], None, '["bee", "cat"]'])
    assert field.fitted["classes"] == ["ant", "bee", "cat", "dog"]
    raws = ["dog;cat", ["bee", "ant", "bee"], [], "ant"]
    entries = [entry for raw in raws for entry in kind.entries(raw, field)]
    assert len(entries) == 4  # a list is one entry, and an empty one says "none of them"
    assert kind.entries(None, field) == kind.entries("", field) == []
    decoded = [kind.decode(entry, field, None) for entry in entries]
    values, mask = kind.collate(decoded, field, None)
    assert values.tolist() == [[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert mask is None
    assert kind.show(decoded[0], field) == "cat, dog"
    assert kind.show("dog;cat", field) == "dog, cat"
    with pytest.raises(BadValue, match=r"'label'.*'fish'"):
        kind.decode("cat;fish", field.replace(role="label"), None)


def test_separator():
    field = fitted(Categories(), ["a|b"], options={"separator": "|"})
    assert field.fitted["classes"] == ["a", "b"]


def test_number():
    kind = Number()
    field = fitted(kind, [1, "3", None, "x"])
    assert field.fitted == {"mean": 2.0, "std": 1.0}
    values, mask = kind.collate([kind.decode(raw, field, None) for raw in (7, "2.5")], field, None)
    assert values.tolist() == [7.0, 2.5]
    assert values.dtype == torch.float32
    assert mask is None
    assert kind.show(2.5, field) == "2.5"
    assert kind.show(None, field) == "None"
    assert fitted(kind, [None]).fitted == {"mean": 0.0, "std": 1.0}
    for raw in ("x", float("inf"), [1], "3,5"):
        with pytest.raises(BadValue, match="column 'label'"):
            kind.decode(raw, field, None)
    comma = field.replace(options={"decimal": ","})
    assert kind.decode("3,5", comma, None) == 3.5


def test_an_unfitted_field_is_a_fault_of_the_program():
    with pytest.raises(ValueError, match="not fitted"):
        Category().decode("a", Field(name="x", modality="category"), None)
