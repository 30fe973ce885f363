"""Schemas: what they refuse, what survives a round trip through YAML."""

import pytest
from pydantic import ValidationError

from sensorium.types import Field, Schema, UserError


def make_schema():
    return Schema(
        fields=(
            Field(name="image", modality="image", role="query"),
            Field(name="regions", modality="boxes", of="image"),
            Field(name="kinds", modality="category", of="regions", fitted={"classes": ["a", "b"]}),
            Field(name="lab", modality="table", columns={"age": "number", "sex": "category"}),
        ),
        key="id",
        group="patient",
    )


def test_a_schema_survives_its_file(tmp_path):
    make_schema().save(tmp_path / "schema.yaml")
    assert Schema.load(tmp_path / "schema.yaml") == make_schema()


def test_family_is_a_field_with_all_that_hangs_on_it():
    assert make_schema().family("image") == ("image", "regions", "kinds")
    assert make_schema().family("lab") == ("lab",)


def test_replace_exchanges_and_adds():
    schema = make_schema().replace(Field(name="note", modality="text"))
    assert schema.names[-1] == "note"
    assert schema.group == "patient"
    assert schema.with_roles({"note": "target"})["note"].role == "target"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([Field(name="a", modality="text")] * 2, "two fields are called 'a'"),
        ([Field(name="a", modality="text", of="b")], "of 'b', which is not a field"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Schema(fields=tuple(fields))


def test_an_unknown_role_suggests_the_nearest():
    with pytest.raises(ValidationError, match="Did you mean 'target'"):
        Field(name="a", modality="text", role="targe")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fields: [1, 2]", "one entry for each field"),
        ("fields:\n  a: {modality: text, rol: query}", "rol"),
        ("fields:\n  a: !!python/object/apply:os.system ['true']", "not readable as YAML"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        Schema.load(path)
    assert "mine.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Schema.load(tmp_path / "none.yaml")
