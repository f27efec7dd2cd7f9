"""The service without HTTP: what a charge pays for, what fits into a stored answer, whose word on a key counts."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

import blindsight as bs
from blindsight import modelfile
from blindsight.blind import RecordOwner
from blindsight.cli import app
from blindsight.detectors._registry import ENTRY_POINT_GROUP
from blindsight.errors import BlindsightWarning, CapacityError, ParameterError, UnknownDetectorError, WireError
from blindsight.service import RequestError, Settings, open_service_store
from blindsight.service._metrics import Metrics
from blindsight.service._service import Service
from blindsight.store import Store

from ._running import make_model


class Killed(Exception):
    """Stands for the end of a worker."""


@pytest.fixture
def open_service(tmp_path):
    """Make services on one store; each counts for itself."""
    opened = []

    def make(**settings) -> Service:
        told = Settings(home=str(tmp_path / "home"), **settings)
        store = open_service_store(told)
        opened.append((Service(store, told, Metrics()), store))
        return opened[-1][0]

    yield make
    for service, store in opened:
        service.close()
        store.close()


def publish(service: Service, model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlindsightWarning)
        service.models.publish("m", modelfile.dumps(model))


def enrol(service: Service, account: str = "a") -> RecordOwner:
    owner = RecordOwner(service.models.current("m").scorer.offer())
    service.register(account, "m", owner.registration)
    return owner


def test_a_charge_for_one_version_pays_for_no_answer_of_another(open_service, monkeypatch):
    one, X = make_model(0)
    weights = dataclasses.replace(one.circuit_, weights=one.circuit_.weights[::-1].copy())
    two, _ = make_model(0)
    two.circuit_ = weights
    service = open_service()
    publish(service, one)
    owner = enrol(service)
    sealed = owner.seal(X[:5], register=False)

    def die(*_arguments) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(service.answers, "finish", die)
        with pytest.raises(Killed):
            service.score("a", "m", "key-key-1", sealed)
    first = service.models.current("m").scorer
    bits = first.parameters.charge_bits(5)
    assert first.bits_released("a") == bits
    again = service.score("a", "m", "key-key-1", sealed)  # same weights: charged once
    assert again.bits == 0
    assert first.bits_released("a") == bits

    with monkeypatch.context() as patched:
        patched.setattr(service.answers, "finish", die)
        with pytest.raises(Killed):
            service.score("a", "m", "key-key-2", sealed)
    publish(service, two)
    second = service.models.current("m").scorer
    assert second.offer() == first.offer()
    assert second.fingerprint != first.fingerprint
    answer = service.score("a", "m", "key-key-2", sealed)
    assert answer.bits == second.bits_released("a") == bits
    assert service.score("a", "m", "key-key-2", sealed).replayed
    assert service.score("a", "m", "key-key-1", sealed).content == again.content  # decided before: sent as it is
    assert second.bits_released("a") == bits
    assert first.bits_released("a") == 2 * bits


def test_contributions_that_no_stored_answer_holds_are_refused_before_they_are_charged(open_service):
    model, X = make_model(features=6)
    generous = open_service(explanations=True)
    publish(generous, model)
    facts = generous.models.facts(generous.models.current("m"))
    assert 0 < facts.explained_rows_per_message <= facts.rows_per_message
    p = generous.models.current("m").scorer.parameters
    room = 2 * model.encoder_.blocks * p.answer_bytes(p.rows_per_ciphertext) + 2000  # two groups
    service = open_service(explanations=True, longest_answer_bytes=room, answer_bytes=room + 2000)
    most = service.models.facts(service.models.current("m")).explained_rows_per_message
    assert most == 2 * p.rows_per_ciphertext
    owner = enrol(service)
    records = np.resize(X, (most + 1, X.shape[1]))
    scorer = service.models.current("m").scorer
    with pytest.raises(WireError, match=f"at most {most}"):
        service.score("a", "m", "key-key-1", owner.seal(records, explain=True, register=False))
    assert scorer.bits_released("a") == 0
    sealed = owner.seal(records[:most], explain=True, register=False)
    answer = service.score("a", "m", "key-key-2", sealed)
    assert len(answer.content) <= room
    assert service.score("a", "m", "key-key-2", sealed).content == answer.content
    plain = open_service()
    assert plain.models.facts(plain.models.current("m")).explained_rows_per_message == 0


def test_a_model_that_no_request_could_carry_is_not_published(open_service):
    service = open_service(body_bytes=1 << 17)
    model, _ = make_model()
    with pytest.raises(CapacityError, match=r"No request could carry .* in columns"):
        service.models.publish("m", modelfile.dumps(model), packing="columns")
    assert service.models.names() == []
    publish(service, model)


def test_contributions_are_of_models_that_have_them(open_service):
    service = open_service(explanations=True)
    model, X = make_model()
    form = bs.Mahalanobis(schema=model.schema_).fit(X)
    service.models.publish("form", modelfile.dumps(form))
    service.models.publish("wide", modelfile.dumps(model), packing="columns")
    publish(service, model)
    asked = {name: service.models.facts(service.models.current(name)) for name in service.load()}
    assert {name: facts.explained_rows_per_message > 0 for name, facts in asked.items()} == {
        "form": False,
        "m": True,
        "wide": False,
    }


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    """A detector that an installed package brings."""
    (tmp_path / "quiet_package.py").write_text(
        "import blindsight as bs\nclass Quiet(bs.ECOD):\n    name = 'Quiet'\n    description = 'ECOD, elsewhere'\n"
    )
    info = tmp_path / "quiet_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: quiet-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nQuiet = quiet_package:Quiet\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("quiet_package").Quiet
    sys.modules.pop("quiet_package", None)


def test_another_packages_detector_is_served_where_its_name_is_allowed(open_service, quiet, tmp_path):
    X = make_model()[1]
    model = quiet(schema=make_model()[0].schema_, contamination=0.05).fit(X)
    model.save(tmp_path / "quiet.blindsight")
    strict = open_service()
    with pytest.raises(UnknownDetectorError):
        publish(strict, model)
    service = open_service(allowed=("Quiet",))
    publish(service, model)
    owner = enrol(service)
    sealed = owner.seal(X[:3], register=False)
    assert np.array_equal(owner.open(service.score("a", "m", None, sealed).content), model.decision_function(X[:3]))
    with pytest.raises(UnknownDetectorError):
        strict.models.current("m")
    refused = CliRunner().invoke(app, ["serve", "--home", str(tmp_path / "home"), "--port", "0"])  # and starts nothing
    assert refused.exit_code == 2
    assert "--allow Quiet" in refused.stderr


def test_a_second_model_that_cannot_be_loaded_harms_nobody(open_service, quiet, tmp_path):
    model, X = make_model()
    service = open_service()
    publish(service, model)
    quiet(schema=model.schema_, contamination=0.05).fit(X).save(tmp_path / "quiet.blindsight")
    shadow = ["serve", "shadow", "m", str(tmp_path / "quiet.blindsight"), "--home", str(tmp_path / "home")]
    refused = CliRunner().invoke(app, shadow)
    assert refused.exit_code == 2
    assert "--allow Quiet" in refused.stderr
    assert CliRunner().invoke(app, [*shadow, "--allow", "Quiet"]).exit_code == 0
    owner = enrol(service)
    sealed = owner.seal(X[:3], register=False)
    assert np.array_equal(owner.open(service.score("a", "m", None, sealed).content), model.decision_function(X[:3]))
    served = service.models.current("m")
    assert served.shadow is None
    assert served.shadow_id is not None
    assert open_service(allowed=("Quiet",)).models.current("m").shadow is not None


def test_the_longest_answer_fits_where_answers_are_kept(tmp_path):
    for wrong in ({"longest_answer_bytes": Store.max_value_bytes, "answer_bytes": 1 << 40}, {"answer_bytes": 1 << 20}):
        with pytest.raises(ParameterError, match="longest_answer_bytes"):
            Settings(home=str(tmp_path), **wrong)


def test_the_childs_word_on_a_key_is_compared(open_service, monkeypatch):
    service = open_service()
    publish(service, make_model()[0])
    honest = enrol(service)
    mine = RecordOwner(service.models.current("m").scorer.offer())
    monkeypatch.setattr(service._check, "check", lambda _offer, _registration: honest.key_id)  # a child taken over
    with pytest.raises(WireError, match="for another"):
        service.register("b", "m", mine.registration)
    served = service.models.current("m")
    assert service.keys("b", served) == []
    with pytest.raises(RequestError, match="not registered by this account"):
        service.score("b", "m", None, mine.seal(make_model()[1][:1], register=False))


def test_a_key_that_is_kept_is_not_read_again(open_service, monkeypatch):
    service = open_service()
    publish(service, make_model()[0])
    owner = enrol(service)

    def read(_offer: bytes, _registration: bytes) -> str:
        raise Killed

    monkeypatch.setattr(service._check, "check", read)
    assert service.register("a", "m", owner.registration) == owner.key_id
    with pytest.raises(Killed):  # another account's is
        service.register("b", "m", owner.registration)
    with pytest.raises(WireError, match="wrong length"):
        service.register("a", "m", owner.registration[:-1])
