"""The page: small, self-contained, escaped, and complete whatever is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import msgspec
import pytest

from blindsight.errors import StoreError
from blindsight.report import describe_rate, render, write_report

from ._runs import ROC, bare_run, budget, charge, comparison, evaluation, full_run, stage

VOID = {"meta", "link", "br", "wbr", "img", "hr", "input", "path", "use", "rect", "circle"}
HOSTILE = (
    "<script>alert('x')</script><img src=http://evil.example onerror=\"run()\"> $\\frac{1}$ {{ 7*7 }} & 名前 \u202e"
)


class Reader(HTMLParser):
    """Collects tags and text, and checks that tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        if not self.stack or self.stack[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def _text(run) -> str:
    return Reader(render(run)).text


@pytest.mark.parametrize("make", [full_run, bare_run])
def test_the_page_is_small_and_fetches_nothing(make):
    page = render(make())
    assert len(page.encode()) < 300_000
    reader = Reader(page)
    assert {tag for tag, _ in reader.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
    } == set()
    for _, attributes in reader.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name in ("xlink:href", "href") or name != "src"
            if name.endswith("href"):
                assert value is not None
                assert value.startswith("#")
    assert not re.search(r"https?:", page)
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "default-src 'none'" in page


def test_every_id_is_used_once():
    ids = [a["id"] for _, a in Reader(render(full_run())).tags if "id" in a]
    drawn = [i for i in ids if i and re.match(r"[mpc][0-9a-f]{8,}", i)]
    assert drawn
    assert len(drawn) == len(set(drawn))


def test_hostile_names_stay_text():
    run = full_run(
        title=HOSTILE,
        data_note=HOSTILE,
        separation=HOSTILE,
        parties=(HOSTILE, "b", "c"),
        trust=HOSTILE,
        notes=(HOSTILE,),
        stages=(stage(step=HOSTILE, participants=(HOSTILE,), dropped={HOSTILE: HOSTILE}),),
        budgets=(budget(party=HOSTILE),),
        ledger=(charge(party=HOSTILE, release=HOSTILE),),
        versions={HOSTILE: HOSTILE},
        comparison=type(comparison())(
            records=1,
            anomalous=1,
            note=HOSTILE,
            curves=(type(comparison().curves[0])(name=HOSTILE, kind="federated", auroc=0.5, roc=ROC),),
        ),
    )
    page = render(run)
    reader = Reader(page)
    assert not {tag for tag, _ in reader.tags} & {"script", "img"}
    assert "<script" not in page
    assert all(not name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert "{{ 7*7 }}" in reader.text
    assert "<script>alert('x')</script>" in reader.text
    assert len(page.encode()) < 300_000


def test_everything_missing_is_said():
    text = _text(bare_run())
    for words in (
        "Not measured: no evaluation was asked for",
        "No records were scored blind in this run",
        "The parties' ledgers were not at hand",
        "There is no differential privacy in this run",
        "not yet audited",
        "Not protected: records against whoever sees the model",
    ):
        assert words in text
    assert "simulated" not in text.lower()


def test_a_coordinators_run_names_the_coordinators_command():
    text = _text(bare_run(coordinated=True))
    assert text.count("'blindsight coordinator evaluate KIT --model MODEL'") == 2, "in the verdict, and for the curve"
    assert "fit --evaluate" not in text
    assert "coordinator evaluate" not in _text(bare_run())


def test_two_kinds_of_noise_have_two_names():
    text = _text(full_run(stages=(stage(noise_stddev=90.6),), ledger=(charge(noise_stddev=74.0),)))
    assert "Noise (sd)" not in text
    for heading, value in (("Total noise (sd)", "90.6"), ("Noise that protects (sd)", "74.0")):
        assert heading in text
        assert value in text.partition(heading)[2], heading
    assert "0.00012" in _text(full_run(stages=(stage(noise_stddev=0.00012),)))


def test_simulated_is_said_at_every_figure():
    page = render(full_run())
    assert page.count('badge simulated">simulated data') >= 2
    for heading in ("Scores and threshold", "Blind against clear"):
        section = page[page.index(heading) : page.index(heading) + 40_000]
        assert "Simulated data." in section


def test_the_verdict_names_cost_and_gaps():
    text = _text(full_run())
    assert "Epsilon 1 per person at delta 1e\N{NON-BREAKING HYPHEN}6" in text
    assert "No record left its party" in text
    assert "a person known to several parties" in text
    assert "The cryptographic code has not yet been audited" in text
    assert "fullest is bank-a's: 2 of 10 spent per person" in text
    assert "Two values lie outside the ranges." in text
    assert "never stored, spent" in text
    assert "at least 2 parties" in text  # one stage lost a party


def test_the_share_of_alerts_is_stated_with_what_the_noise_leaves_of_it():
    plain = "It is set to alert on about 2% of records like those it was trained on"
    assert f"{plain}." in _text(bare_run())
    noisy = msgspec.structs.replace(full_run().model, alert_interval=(0.00128, 0.0422))
    moved = "; the noise of its counts moves that to between 0.128% and 4.22% in about nineteen fits of twenty."
    assert plain + moved in _text(full_run(model=noisy))


def test_learned_ranges_are_called_a_leak():
    model = full_run().model
    learned = type(model)(**{f: getattr(model, f) for f in model.__struct_fields__} | {"ranges": "learned"})
    assert "learned from records, which is a leak" in _text(full_run(model=learned))


@pytest.mark.parametrize(
    ("federated", "local", "words"),
    [
        (0.85, (0.80, 0.81), "ranks better than every party alone"),
        (0.70, (0.80, 0.81), "every party alone ranks better"),
        (0.805, (0.80, 0.81), "makes little difference"),
    ],
)
def test_the_gain_of_federating_is_told_as_measured(federated, local, words):
    assert words in _text(full_run(comparison=comparison(federated, local)))


def test_a_noisy_evaluation_is_not_sold_as_a_figure():
    run = full_run(comparison=None, evaluation=evaluation(auroc=0.503, auroc_stddev=0.38))
    text = _text(run)
    assert "cannot judge the ranking" in text
    assert "0.503" not in text
    assert "not measurable at this epsilon" in text


def test_a_clear_evaluation_carries_its_noise():
    text = _text(full_run(comparison=None))
    assert "AUROC 0.812 ± 0.040" in text
    assert "has no local or centralised model to compare with" in text
    exact = evaluation(auroc_stddev=0.0, false_positive_rate_stddev=0.0, false_negative_rate_stddev=0.0)
    assert "±" not in _text(bare_run(evaluation=exact))


def test_in_sample_figures_are_marked():
    assert "which flatters" in _text(full_run(evaluation=evaluation(in_sample=True)))


def test_a_blind_difference_is_an_alarm():
    run = full_run()
    differing = type(run.blind)(
        **{f: getattr(run.blind, f) for f in run.blind.__struct_fields__} | {"max_difference": 0.5}
    )
    text = _text(full_run(blind=differing))
    assert "do not use this result" in text
    assert "equal the clear scores exactly" not in text
    assert "All 1,000 scores computed on encrypted records equal the clear scores exactly" in _text(run)


def test_labels_keep_their_digits():
    page = render(full_run())
    assert re.search(r"<text[^>]*>federated: epsilon 1, 0\.787</text>", page)


def test_many_parties_and_lines_stay_small():
    names = tuple(f"organisation-{i:03d}" for i in range(100))
    run = full_run(
        parties=names,
        budgets=tuple(budget(party=name) for name in names),
        ledger=tuple(charge(party=name) for name in names for _ in range(9)),
        stages=tuple(stage(step=f"step-{i}", participants=names, survivors=names) for i in range(60)),
    )
    page = render(run)
    assert len(page.encode()) < 300_000
    assert "780 more lines are in the ledgers" in Reader(page).text


def test_a_page_that_would_be_too_large_is_not_written(tmp_path):
    target = tmp_path / "report.html"
    target.write_text("an earlier report")
    with pytest.raises(StoreError, match="too large"):
        write_report(full_run(notes=("x" * 4000,) * 100), target)
    assert target.read_text() == "an earlier report"


def test_the_same_run_gives_the_same_page(tmp_path):
    first, second = write_report(full_run(), tmp_path / "a.html"), write_report(full_run(), tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_mode & 0o777 == 0o644


def test_no_plotting_state_is_left():
    code = """
import sys
import matplotlib
before = matplotlib.rcParams.copy()  # dict() would ask pyplot which backend it wants
from tests.report._runs import full_run
from blindsight.report import render
render(full_run())
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("rate", "stddev", "words"),
    [
        (0.0142, 0.0, "1.4%"),
        (0.0142, 0.002, "1.4% ± 0.4%"),
        (0.0, 0.007, "at most 1.4%"),
        (0.9, 0.1, "at least 70%"),
        (0.5, 0.4, "an unknown share"),
    ],
)
def test_rates_are_told_as_far_as_the_noise_allows(rate, stddev, words):
    assert describe_rate(rate, stddev) == words


def _private(**changes):
    privacy = full_run().privacy
    assert privacy is not None
    return msgspec.structs.replace(privacy, **{"max_records_per_person": None, **changes})


def test_unit_party_and_local_trust_are_told_in_words():
    text = _text(full_run(privacy=_private(unit="party", max_records_per_party=1000)))
    assert "of each party at most 1,000 are used in a sum over records" in text
    assert "Epsilon 1 per party at delta" in text
    assert "that the party takes part is public" in text
    assert "surviving parties draw their noise as agreed" in text
    assert "Somebody with k records" not in text
    local = _text(full_run(privacy=_private(unit="party", max_records_per_party=1000, trust="local")))
    assert "added noise to them that is enough by itself, masked them" in local
    assert "trusts neither the other parties nor the masking" in local
    assert "surviving parties draw their noise as agreed" not in local
    for unit in ("record", "person"):
        assert "neither the other parties" not in _text(full_run(privacy=_private(unit=unit, max_records_per_person=1)))


def test_a_run_without_masks_claims_none():
    text = _text(full_run(trust="masking was given up: the coordinator reads every party's update of every round"))
    assert "the coordinator read each party's update of every round by itself, with noise (" in text
    assert "masked the" not in text
    assert "any single party's sums" not in text
    assert "masked them, and sent" in _text(full_run())


def test_a_run_under_a_shared_key_names_who_opens_everything():
    trust = "the parties share one key (BFV), and no party may collude with the coordinator"
    text = _text(full_run(trust=trust))
    assert "encrypted them, and sent the encrypted numbers" in text
    assert "masked the" not in text
    assert "any single party's sums, unless one party gives it the key that all of them share" in text
    assert "single parties' sums against the coordinator and any one party together" in text
    assert "share one key" not in _text(full_run())


def test_a_rate_over_no_record_is_no_number():
    one = evaluation(anomalous=0.0, auroc=0.5, auroc_stddev=0.5, false_negative_rate=None, average_precision=None)
    text = _text(full_run(comparison=None, evaluation=one))
    assert "Not measurable: private sums of labelled records hold about 10,000 normal and 0 anomalous" in text
    assert "not measurable: one class only" in text
    assert "Not drawn: the labelled records are of one class" in text
    assert "of the anomalies are found" not in text


def test_an_epsilon_is_one_number_on_the_page():
    words = "changes little, by at most a factor e^0.887, up to a probability of 1e-06."
    text = _text(full_run(privacy=_private(epsilon_asked=1.0, epsilon_spent=0.88654, statement=words), evaluation=None))
    assert "Epsilon 0.887 per person" in text
    assert text.count("0.887") == 3, "key figure, verdict, statement"
    assert "0.89 " not in text


def test_histograms_say_what_they_leave_out():
    counts = (500.0, *(float(1000 - 25 * i) for i in range(40)), 700.0)
    histogram = msgspec.structs.replace(full_run().histogram, counts=counts, noise_stddev=1.0)
    assert "500 records lie below what is drawn and 700 above" in _text(full_run(histogram=histogram))


def test_roles_are_cards_on_a_phone():
    page = render(full_run())
    assert page.count('data-label="Learned in this run"') == 4
    assert "max-width: 44rem" in page
