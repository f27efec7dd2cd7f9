"""Schema and Column: domains, both written forms, digests, hostile input."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindsight.data import Column, Schema
from blindsight.data._plain import columns_from_plain
from blindsight.errors import FormatError, SchemaError

AGE = Column(name="age", low=0, high=120, unit="years", missing="middle")
PAY = Column(name="pay", low=0.0, high=1e6, scale="log", missing=0)
SHOP = Column(name="shop", type="category", categories=("food", "fuel", "other"), missing="other")
WHO = Column(name="who", role="person", type="text")
FRAUD = Column(name="fraud", role="label")
NOTE = Column(name="note", role="ignore", type="text")
SCHEMA = Schema([WHO, AGE, PAY, SHOP, FRAUD, NOTE])


def test_views_follow_the_written_order():
    assert SCHEMA.feature_names == ("age", "pay", "shop")
    assert SCHEMA.n_features == 3
    assert SCHEMA.label == FRAUD
    assert SCHEMA.person == WHO
    assert Schema([AGE]).label is None
    assert Schema([AGE]).person is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "name is unusable"),
        ({"name": "a\nb"}, "printable"),
        ({"name": "x" * 129}, "129 characters"),
        ({"name": "x"}, "no public range"),
        ({"name": "x", "low": 0}, "no public range"),
        ({"name": "x", "role": "ignore", "low": 0}, "only one end"),
        ({"name": "x", "low": 1, "high": 1}, "empty or overflowing"),
        ({"name": "x", "low": 2, "high": 1}, "low < high"),
        ({"name": "x", "low": -1.7e308, "high": 1.7e308}, "overflowing"),
        ({"name": "x", "low": math.nan, "high": 1}, "low is not finite"),
        ({"name": "x", "low": 0, "high": math.inf}, "high is not finite"),
        ({"name": "x", "low": 0, "high": 10**400}, "not a finite number"),
        ({"name": "x", "low": True, "high": 2}, "low is not a number"),
        ({"name": "x", "low": "0", "high": 2}, "low is not a number"),
        ({"name": "x", "low": -1, "high": 1, "scale": "log"}, "low >= 0"),
        ({"name": "x", "role": "ignore", "scale": "log"}, "scale 'log' and no range"),
        ({"name": "x", "low": 0, "high": 1, "scale": "cubic"}, "unknown scale"),
        ({"name": "x", "low": 0, "high": 1, "role": "features"}, "unknown role"),
        ({"name": "x", "low": 0, "high": 1, "type": "float"}, "unknown type"),
        ({"name": "x", "low": 0, "high": 1, "missing": "median"}, "'refuse', 'middle' or a finite number"),
        ({"name": "x", "low": 0, "high": 1, "missing": math.nan}, "missing is not finite"),
        ({"name": "x", "low": 0, "high": 1, "categories": ("a",)}, "has categories"),
        ({"name": "x", "low": 0, "high": 1, "unit": "\0"}, "unit of column 'x'"),
        ({"name": "x", "type": "text"}, "a feature is of type number or category"),
        ({"name": "x", "type": "category"}, "without declared values"),
        ({"name": "x", "type": "category", "categories": ()}, "unusable list"),
        ({"name": "x", "type": "category", "categories": "abc"}, "unusable list"),
        ({"name": "x", "type": "category", "categories": ("a", "a")}, "twice"),
        ({"name": "x", "type": "category", "categories": (1, "1")}, "twice"),
        ({"name": "x", "type": "category", "categories": ("a", 1.5)}, "printable"),
        ({"name": "x", "type": "category", "categories": ("a", 10**5000)}, "printable"),
        ({"name": "x", "type": "category", "categories": ("a",), "low": 0, "high": 1}, "drop low, high"),
        ({"name": "x", "type": "category", "categories": ("a",), "missing": "b"}, "one of the column's"),
        ({"name": "x", "role": "label", "type": "category", "categories": ("a", "b", "c")}, "3 categories"),
        ({"name": "x", "role": "label", "missing": 0}, "only features"),
        ({"name": "x", "role": "person", "type": "category", "categories": ("a",)}, "number or text"),
    ],
)
def test_a_column_out_of_its_domain_is_refused(arguments, message):
    with pytest.raises(SchemaError, match=message):
        Column(**arguments)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([], "no feature"),
        ([FRAUD], "no feature"),
        ([AGE, AGE], "'age' is declared twice"),
        ([AGE, FRAUD, Column(name="b", role="label")], "several columns of role 'label'"),
        ([AGE, WHO, Column(name="b", role="person")], "several columns of role 'person'"),
        (["age"], "made of Column"),
        ([Column(name=f"x{i}", low=0, high=1) for i in range(10_001)], "too many"),
    ],
)
def test_a_schema_out_of_its_domain_is_refused(columns, message):
    with pytest.raises(SchemaError, match=message):
        Schema(columns)


def test_whole_numbers_and_booleans_are_categories_by_their_text():
    assert Column(name="x", type="category", categories=(7, True, "a")).categories == ("7", "true", "a")


def test_middle_is_on_the_columns_scale():
    assert AGE.middle == 60
    # half way where bins are spread: in log(1 + 1000 u) of the position u in the range
    low, high = 3.0, 1e12
    middle = Column(name="x", low=low, high=high, scale="log").middle
    u = (middle - low) / (high - low)
    assert math.log1p(1000 * u) == pytest.approx(math.log1p(1000) / 2)


def test_declare_changes_nothing_but_the_word():
    learned = Schema(SCHEMA.columns, "learned")
    assert learned.declare() == SCHEMA
    assert learned.ranges == "learned"
    assert learned.digest() != SCHEMA.digest()


def test_both_written_forms_are_exact(tmp_path):
    schema = Schema([Column(name='o"dd \\ é', low=0.1, high=1 / 3), *SCHEMA.columns], "learned")
    assert Schema.from_toml(schema.to_toml()) == schema
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    schema.write(tmp_path / "schema.toml")
    assert Schema.read(tmp_path / "schema.toml") == schema


@given(
    name=st.text(min_size=1, max_size=128).filter(str.isprintable),
    low=st.floats(-1e100, 1e100),
    width=st.floats(1e-3, 1e100),
    missing=st.one_of(st.sampled_from(["refuse", "middle"]), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_any_number_column_survives_toml_and_json(name, low, width, missing):
    if not low < low + width:
        return
    schema = Schema([Column(name=name, low=low, high=low + width, missing=missing)])
    assert Schema.from_toml(schema.to_toml()) == schema
    again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema
    assert again.digest() == schema.digest()


def test_the_digest_is_fixed_and_sees_every_field():
    assert Schema([AGE]).digest() == "b8a60166bf14d82430fab527496799f685d4dc949c263bce07dedb7330eafc18"
    variants = [
        Column(name="agE", low=0, high=120, unit="years", missing="middle"),
        Column(name="age", low=0, high=121, unit="years", missing="middle"),
        Column(name="age", low=1, high=120, unit="years", missing="middle"),
        Column(name="age", low=0, high=120, unit="months", missing="middle"),
        Column(name="age", low=0, high=120, unit="years", missing=60),
        Column(name="age", low=0, high=120, unit="years", missing="middle", scale="log"),
    ]
    assert len({Schema([column]).digest() for column in [AGE, *variants]}) == 7
    assert Schema([AGE, PAY]).digest() != Schema([PAY, AGE]).digest()
    assert Schema([Column(name="x", low=-0.0, high=1)]).digest() == Schema([Column(name="x", low=0, high=1)]).digest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version = ", "not valid TOML"),
        ("version = 2", "another version"),
        ("ranges = 'declared'", "another version"),
        ("version = 1", "not a list"),
        ("version = 1\ncolumns = 3", "not a list"),
        ("version = 1\nrange = 3", "did you mean 'ranges'"),
        ("version = 1\n[[columns]]\ntype = 'number'", "Column number 0 has no name"),
        ("version = 1\n[[columns]]\nname = 'a'", "Column 'a' has no type"),
        ("version = 1\n[[columns]]\nname = 'a'\ntype='number'\nlo = 3", "did you mean 'low'"),
        ("version = 1\n[[columns]]\nname = 'a'\ntype='number'\nlow = ''\nhigh = ''", "fill in low and high"),
        ("version = 1\n[[columns]]\nname = 'a'\ntype='category'\ncategories = []", "without declared values"),
        ("version = 1\n[[columns]]\nname = 'a'\ntype='number'\nlow = 'x'\nhigh = 3", "low is not a number"),
        ("version = 1\n[[columns]]\nname = 'a'\ntype='number'\nlow = nan\nhigh = 3", "low is not finite"),
        ("version = 1\ncolumns = [3]", "Column number 0 is not a table"),
        ("version = 1\nranges = 'true'\ncolumns = [3]", "'declared' or 'learned'"),
    ],
)
def test_a_wrong_toml_file_names_the_place_and_the_fix(text, message):
    with pytest.raises(SchemaError, match=message):
        Schema.from_toml(text)


def test_all_blanks_are_named_at_once():
    """Those of one kind together, each with what mends it; a single one as it always was."""
    blank = "[[columns]]\nname = '{}'\ntype = 'number'\nlow = ''\nhigh = ''\n"
    text = "version = 1\n" + "".join(blank.format(name) for name in ("age", "pay", "x" * 60))
    text += "[[columns]]\nname = 'shop'\ntype = 'category'\ncategories = []\n"
    text += "[[columns]]\nname = 'fine'\ntype = 'number'\nlow = 0\nhigh = 1\n"
    text += "[[columns]]\nname = 'odd'\ntype = 'number'\nlow = 'x'\nhigh = 1\n[[columns]]\ntype = 'number'\n"
    with pytest.raises(SchemaError, match="6 columns of the schema cannot be used") as caught:
        Schema.from_toml(text)
    told = caught.value.got.split("; ")
    assert told[0] == (
        "'age', 'pay': has no public range: fill in low and high from what the column means, not from the records"
    )
    assert "x" * 60 in told[1]
    assert told[2].startswith("'shop': is a category without declared values: write categories")
    assert told[3] == "'odd': low is not a number ('x')"
    assert told[4].startswith("number 6: has no name")
    assert "fine" not in caught.value.got
    with pytest.raises(SchemaError, match=r"^Column 'age' has no public range"):
        Schema.from_toml("version = 1\n" + blank.format("age"))


def test_thousands_of_faults_make_a_short_error():
    rows = [{"name": f"c{i}", "type": "number", "low": "", "high": "" if i % 2 else f"{i}"} for i in range(10_000)]
    with pytest.raises(FormatError):
        Schema.from_json({"version": 1, "columns": rows})
    with pytest.raises(SchemaError, match="10000 columns") as caught:
        columns_from_plain({"version": 1, "columns": rows})
    assert "5000 in all" in str(caught.value)
    assert "further faults" in str(caught.value)
    assert len(str(caught.value)) < 4000


def test_an_unreadable_file_is_a_schema_error(tmp_path):
    with pytest.raises(SchemaError, match=r"absent.toml' cannot be read.*Fix: give the path"):
        Schema.read(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(SchemaError, match="not UTF-8"):
        Schema.read(tmp_path / "latin.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * ((1 << 22) + 1))
    with pytest.raises(SchemaError, match="too large"):
        Schema.read(tmp_path / "large.toml")


def test_what_is_wrong_in_a_file_is_said_with_its_name_and_how_to_mend_it(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("version = 1\nranges = declared\n")
    with pytest.raises(SchemaError, match=r"bad.toml': The schema is not valid TOML.*line 2.*Fix: mend that line"):
        Schema.read(path)
    path.write_text("version = 1\n[[columns]]\nname = 'a'\n")
    with pytest.raises(SchemaError, match=r"bad.toml': Column 'a' has no type.*Fix: add type"):
        Schema.read(path)


GOOD = SCHEMA.to_json()
HOSTILE = [
    None,
    [],
    {},
    {**GOOD, "version": True},
    {**GOOD, "version": 10**5000},
    {**GOOD, "ranges": ["declared"]},
    {**GOOD, "extra": 1},
    {**GOOD, 1: 2},
    {**GOOD, "columns": []},
    {**GOOD, "columns": [GOOD["columns"][1]] * 10_001},
    {**GOOD, "columns": [GOOD["columns"][1]] * 2},
    *(
        {**GOOD, "columns": [{**GOOD["columns"][1], key: value}]}
        for key, value in [
            ("name", 3),
            ("name", "x" * 10_000),
            ("name", "\ud800"),
            ("role", ["feature"]),
            ("role", {}),
            ("type", None),
            ("low", "0"),
            ("low", None),
            ("low", True),
            ("low", math.nan),
            ("low", 10**5000),
            ("high", -math.inf),
            ("missing", []),
            ("missing", 10**5000),
            ("missing", math.inf),
            ("scale", 1),
            ("unit", 7),
            ("categories", {"a": 1}),
            ("categories", ["a"]),
        ]
    ),
    {**GOOD, "columns": [{"name": "x", "type": "category", "categories": [str(i) for i in range(10_001)]}]},
    {**GOOD, "columns": [{"name": "x", "type": "category", "categories": [["a"]]}]},
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_json_is_a_format_error_and_nothing_else(value):
    with pytest.raises(FormatError, match="malformed"):
        Schema.from_json(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(key=st.sampled_from([*GOOD, *GOOD["columns"][1], "categories", "scale"]), value=PLAIN)
def test_any_mutation_gives_a_schema_or_a_format_error(key, value):
    hostile = json.loads(json.dumps(GOOD))
    (hostile if key in hostile else hostile["columns"][1])[key] = value
    try:
        schema = Schema.from_json(hostile)
    except FormatError:
        return
    assert Schema.from_json(schema.to_json()) == schema
