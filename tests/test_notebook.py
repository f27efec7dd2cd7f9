"""What objects look like in a notebook: complete, escaped, and without any value of a record."""

from __future__ import annotations

import html.parser

import pytest

import blindsight as bs
from blindsight.data import Column, Schema
from blindsight.detectors import ECOD, Detector, Mahalanobis
from blindsight.federation import Federation, Policy
from sample_tables import MIXED_SCHEMA, make_table

NASTY = "<script>alert(1)</script>&\"'"


class Checked(html.parser.HTMLParser):
    """Every tag is closed, none runs or fetches anything."""

    VOID = frozenset({"rect", "polyline", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "iframe", "img", "link", "object", "style"}
        assert not any(name.startswith("on") or name in {"href", "src"} for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def federation() -> Federation:
    data = {name: make_table(80, place) for place, name in enumerate("abc")}
    return Federation.embedded(data, schema=MIXED_SCHEMA, policy=Policy(allow_exact_sums=True), name=NASTY)


@pytest.fixture(scope="module")
def model(federation: Federation) -> Detector:
    return federation.fit(ECOD(contamination=0.05), privacy=None)


def test_everything_shows_itself(federation: Federation, model: Detector) -> None:
    evaluation = federation.evaluate(model, privacy=None)
    values = [repr(value) for value in make_table(80, 0)["balance"].to_list()]
    for shown, words in (
        (MIXED_SCHEMA, ("age", "0 to 120", "DE, FR, GB, US", "declared")),
        (model, ("ECOD, fitted", "about 240", "0.05 of the records", "Exact sums, no differential privacy")),
        (federation, ("fit ECOD", "exact sums", "evaluate")),
        (evaluation, ("AUROC", "95% interval", "Each party's own figures")),
    ):
        text = shown._repr_html_()
        checked = Checked(text)
        for word in words:
            assert word in checked.text
        assert not any(value in text for value in values)
    assert model._repr_mimebundle_()["text/html"] == model._repr_html_()


def test_no_weight_and_no_count_is_shown(model: Detector) -> None:
    text = model._repr_html_()
    for weight in set(model.circuit_.weights.tolist()):
        assert weight < 100 or str(weight) not in text


def test_what_others_named_is_escaped(federation: Federation) -> None:
    assert NASTY in Checked(federation._repr_html_()).text
    schema = Schema((Column(name=NASTY, low=0, high=1), Column(name="c", type="category", categories=(NASTY,))))
    assert Checked(schema._repr_html_()).text.count(NASTY) == 2
    alone = ECOD(schema=schema).fit({NASTY: [0.1, 0.5], "c": [NASTY, NASTY]})
    assert NASTY in Checked(alone._repr_html_()).text


def test_unfitted_and_alone_are_said_so(number_schema: Schema) -> None:
    assert "Mahalanobis, not fitted" in Mahalanobis()._repr_html_()
    alone = bs.ECOD(schema=number_schema).fit(make_table(50, 1))
    assert "Fitted alone" in alone._repr_html_()
    learned = bs.ECOD().fit(make_table(50, 1).select("age", "amount"))
    assert "does not stay secret" in learned._repr_html_()
    assert "learned from records: no public knowledge" in learned.schema_._repr_html_()


def test_long_schemas_are_cut(number_schema: Schema) -> None:
    wide = Schema(tuple(Column(name=f"x{j}", low=0, high=1) for j in range(200)))
    assert "and 140 more" in Checked(wide._repr_html_()).text
