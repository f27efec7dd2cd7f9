"""The model file: what goes in comes out, and nothing malformed comes in."""

from __future__ import annotations

import io
import json
import pickle
import resource
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blindsight as bs
from blindsight import modelfile
from blindsight.circuits import encoder_to_json
from blindsight.data import Column, Schema, records
from blindsight.detectors import ECOD, Detector, Mahalanobis, State, local_total
from blindsight.errors import AuthenticationError, FormatError, NotFittedError, StoreError
from blindsight.keys import Sealer, create_key_file
from sample_tables import make_table

MODELS: dict[str, Detector] = {}


@pytest.fixture(params=["ECOD", "Mahalanobis"])
def model(request: pytest.FixtureRequest, number_schema: Schema) -> Detector:
    return fitted(request.param, number_schema)


def fitted(name: str, schema: Schema) -> Detector:
    if name not in MODELS:
        make = {"ECOD": ECOD, "Mahalanobis": Mahalanobis}[name]
        MODELS[name] = make(contamination=0.07, schema=schema).fit(make_table(200, 1))
    return MODELS[name]


def split(data: bytes) -> tuple[dict, dict, dict[str, np.ndarray]]:
    """Outer safetensors header, our header, and the tensors."""
    (size,) = struct.unpack_from("<Q", data)
    outer = json.loads(data[8 : 8 + size])
    header = json.loads(outer["__metadata__"]["blindsight"][65:])
    body = data[8 + size :]
    tensors = {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], dtype="<i8")
        for name, entry in outer.items()
        if name != "__metadata__"
    }
    return outer, header, tensors


def join(header: object, tensors: dict[str, np.ndarray], *, text: str | None = None) -> bytes:
    """A file with a correct digest, so that what is refused is refused for its content."""
    from safetensors.numpy import save

    text = json.dumps(header, sort_keys=True, separators=(",", ":")) if text is None else text
    whole = {name: np.asarray(t) for name, t in tensors.items()}
    digest = modelfile._digest(text, {n: t.astype(np.int64) for n, t in whole.items() if np.isfinite(t).all()})
    return bytes(save(whole, metadata={"blindsight": f"{digest} {text}"}))


def refused(data: bytes, *, contains: str = "") -> None:
    with pytest.raises(FormatError) as caught:
        modelfile.loads(data)
    text = str(caught.value)
    assert text.startswith("The model file is ")
    assert "Got:" in text
    assert "Rule:" in text
    assert "Fix:" in text
    assert contains in text


def test_round_trip(model: Detector, tmp_path: Path) -> None:
    path = tmp_path / "m.blindsight"
    model.save(path)
    again = bs.load(path)
    table = make_table(60, 2)
    assert type(again) is type(model)
    assert again.get_params()["contamination"] == 0.07
    assert again.schema_ == model.schema_
    assert again.encoder_ == model.encoder_
    assert again.circuit_ == model.circuit_
    assert np.array_equal(again.totals_, model.totals_)
    assert np.array_equal(again.decision_function(table), model.decision_function(table))
    assert np.array_equal(again.predict_proba(table), model.predict_proba(table))
    assert again.threshold_ == model.threshold_
    assert again.is_secret_ is True
    # what was read can be written again, byte for byte, and updated
    assert modelfile.dumps(again) == path.read_bytes()
    more = make_table(30, 3)
    assert again.partial_fit(more).circuit_ == pickle_free_copy(model).partial_fit(more).circuit_


def pickle_free_copy(model: Detector) -> Detector:
    return modelfile.loads(modelfile.dumps(model))


def test_the_take_apart_helper_gives_back_a_loadable_file(model: Detector) -> None:
    """Otherwise every refusal below would be for the wrong reason."""
    _, header, tensors = split(modelfile.dumps(model))
    assert modelfile.dumps(modelfile.loads(join(header, tensors))) == modelfile.dumps(model)


def test_every_truncation_is_refused(model: Detector) -> None:
    data = modelfile.dumps(model)
    for length in [*range(64), *range(64, len(data), max(len(data) // 60, 1)), len(data) - 1]:
        with pytest.raises(FormatError):
            modelfile.loads(data[:length])
    with pytest.raises(FormatError):
        modelfile.loads(data + b"\0")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_every_bit_flip_is_refused(number_schema: Schema, data: st.DataObject) -> None:
    content = bytearray(modelfile.dumps(fitted(data.draw(st.sampled_from(["ECOD", "Mahalanobis"])), number_schema)))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(FormatError):
        modelfile.loads(bytes(content))


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        modelfile.loads(data)


def test_pickles_are_refused_and_not_run(model: Detector, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    for content in (pickle.dumps(Bomb()), pickle.dumps({"model": [1, 2]})):
        refused(content)
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(FormatError):
            bs.load(tmp_path / "m")
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    refused(buffer.getvalue())
    assert not (tmp_path / "ran").exists()


def test_a_huge_header_is_refused_before_it_is_read(model: Detector) -> None:
    data = modelfile.dumps(model)
    for size in (2**24 + 1, 2**40, 2**63, 2**64 - 1, len(data)):
        refused(struct.pack("<Q", size) + data[8:], contains="header")


def test_nested_json_does_not_exhaust_the_stack(model: Detector) -> None:
    _, header, tensors = split(modelfile.dumps(model))
    text = json.dumps(header, sort_keys=True).replace('"provenance": null', '"provenance": ' + "[" * 200_000)
    refused(join(None, tensors, text=text))


@pytest.mark.parametrize("name", ["weights", "totals", "score_edges", "score_counts"])
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:-1],
        lambda t: np.append(t, 1),
        lambda t: t.reshape(1, -1),
        lambda t: t.astype(np.int32),
        lambda t: t.astype(np.float64),
        lambda t: np.full(t.shape, np.nan),
        lambda t: np.full(t.shape, np.inf),
        lambda t: t.astype(np.float32) + 0.5,
        lambda t: np.zeros(0, dtype=np.int64),
        lambda t: np.where(np.arange(t.size) == 1, np.int64(-(2**63)), t),
        lambda t: np.where(np.arange(t.size) == t.size - 1, np.int64(2**63 - 1), t),
    ],
    ids=["short", "long", "2-D", "int32", "float64", "nan", "inf", "fraction", "empty", "minimum", "maximum"],
)
def test_wrong_tensors_are_refused(model: Detector, name: str, change: object) -> None:
    _, header, tensors = split(modelfile.dumps(model))
    refused(join(header, {**tensors, name: change(tensors[name])}))  # type: ignore[operator]


def test_missing_and_extra_tensors_are_refused(model: Detector) -> None:
    _, header, tensors = split(modelfile.dumps(model))
    refused(join(header, {**tensors, "rows": np.zeros(3, dtype=np.int64)}), contains="unknown or missing")
    refused(join(header, {k: v for k, v in tensors.items() if k != "totals"}), contains="unknown or missing")
    for name in ("score_edges", "score_counts"):
        refused(join(header, {k: v for k, v in tensors.items() if k != name}), contains="histogram")


def test_edges_that_do_not_increase_are_refused(model: Detector) -> None:
    _, header, tensors = split(modelfile.dumps(model))
    edges = tensors["score_edges"]
    refused(join(header, {**tensors, "score_edges": edges[::-1].copy()}), contains="histogram")
    wrapped = edges.copy()
    wrapped[0], wrapped[1] = 2**62, -(2**62)  # their difference overflows to something positive
    refused(join(header, {**tensors, "score_edges": wrapped}))


STATE_FIELDS = {"bias", "encoder", "histogram_noise_variance", "noise_variance", "score_scale"}


def replaced(header: dict, field: str, value: object) -> dict:
    """The header with one field replaced, its own or the state's."""
    if field in STATE_FIELDS:
        return {**header, "state": {**header["state"], field: value}}
    return {**header, field: value}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "other-model"),
        ("version", 1),
        ("version", 3),
        ("version", "2"),
        ("version", 0),
        ("version", 2.5),
        ("version", None),
        ("state", None),
        ("state", {}),
        ("state", []),
        ("bias", 0.5),
        ("bias", True),
        ("bias", 2**41),
        ("bias", None),
        ("score_scale", 0.0),
        ("score_scale", -1.0),
        ("score_scale", "1"),
        ("score_scale", 5e-324),
        ("score_scale", 1e308),
        ("score_scale", 10**400),
        ("noise_variance", -1.0),
        ("noise_variance", None),
        ("histogram_noise_variance", -1e-9),
        ("certificate", [1]),
        ("provenance", "bank"),
        ("detector", {"name": "ECOD"}),
        ("detector", {"name": "os.system", "parameters": {}}),
        ("detector", {"name": "ECOD", "parameters": {"contamination": 0.1, "schema": {}}}),
        ("detector", {"name": "ECOD", "parameters": {"contamination": 9.0}}),
        ("detector", {"name": "ECOD", "parameters": {"bins": 8}}),
        ("detector", {"name": ["ECOD"], "parameters": {}}),
        ("detector", None),
        ("encoder", {"kind": "pickle"}),
        ("encoder", None),
        ("schema", {"version": 1}),
        ("schema", None),
    ],
)
def test_wrong_header_fields_are_refused(model: Detector, field: str, value: object) -> None:
    _, header, tensors = split(modelfile.dumps(model))
    if value == {"name": "ECOD", "parameters": {"bins": 8}} and isinstance(model, Mahalanobis):
        value = {"name": "ECOD", "parameters": {"bins": 64}}
    refused(join(replaced(header, field, value), tensors))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["score_scale", "noise_variance"])
def test_nan_in_the_header_is_refused(model: Detector, field: str, constant: str) -> None:
    _, header, tensors = split(modelfile.dumps(model))
    text = json.dumps(replaced(header, field, "@"), sort_keys=True, separators=(",", ":")).replace('"@"', constant)
    refused(join(None, tensors, text=text), contains=constant.lstrip("-"))
    refused(join(None, tensors, text=text.replace(constant, "1e999")))


def test_unknown_and_missing_header_fields_are_refused(model: Detector) -> None:
    _, header, tensors = split(modelfile.dumps(model))
    refused(join({**header, "training_rows": [1]}, tensors), contains="fields")
    for field in header:
        refused(join({k: v for k, v in header.items() if k != field}, tensors))
    refused(join({**header, "state": {**header["state"], "rows": [1]}}, tensors), contains="unknown or missing")
    for field in header["state"]:
        refused(join({**header, "state": {k: v for k, v in header["state"].items() if k != field}}, tensors))


def test_a_header_that_is_not_canonical_is_refused(model: Detector) -> None:
    """Two readers of the same bytes must see the same model."""
    _, header, tensors = split(modelfile.dumps(model))
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    twice = text.replace('"version":2', '"version":2,"version":2')
    for other in (twice, text + " ", json.dumps(header, sort_keys=True), json.dumps(header, separators=(",", ":"))):
        if other != text:
            refused(join(None, tensors, text=other), contains="canonically")


def test_other_metadata_are_refused(model: Detector) -> None:
    from safetensors.numpy import save

    outer, _, tensors = split(modelfile.dumps(model))
    own = outer["__metadata__"]["blindsight"]
    assert modelfile.loads(bytes(save(tensors, metadata={"blindsight": own}))).threshold_ == model.threshold_
    refused(bytes(save(tensors, metadata={"blindsight": own, "comment": "x"})), contains="metadata")


def test_the_digest_covers_names_types_and_shapes() -> None:
    a = np.arange(4, dtype=np.int64)
    forms = [
        {"a": a},
        {"b": a},
        {"a": a.reshape(2, 2)},
        {"a": a.view(np.int8)},
        {"a": a.view(np.float32)},
        {"a": a[:2], "aa": a[2:]},
        {"a": a, "b": a[:0]},
        {"a": a + 1},
    ]
    assert len({modelfile._digest("{}", form) for form in forms}) == len(forms)
    assert modelfile._digest("{}", {"a": a, "b": a}) == modelfile._digest("{}", {"b": a, "a": a})
    assert modelfile._digest("{}", {"a": a}) == modelfile._digest("{}", {"a": a.astype(">i8").astype("<i8")})


class Stateful(ECOD):
    """Holds whatever a test puts into its state."""

    name = "ECOD"

    def _dump(self) -> State:
        state = super()._dump()
        return State(values={**state.values, **self.values}, arrays={**state.arrays, **self.arrays})


@pytest.mark.parametrize(
    ("values", "arrays"),
    [
        ({}, {"float64": np.zeros(2)}),
        ({}, {"nan": np.full(2, np.nan, dtype=np.float32)}),
        ({}, {"objects": np.array([{}], dtype=object)}),
        ({}, {"": np.zeros(2, dtype=np.int64)}),
        ({}, {"x" * 201: np.zeros(2, dtype=np.int64)}),
        ({}, {"huge": np.array([2**61])}),
        ({}, {f"t{i}": np.zeros(1, dtype=np.int8) for i in range(257)}),
    ],
    ids=["float64", "nan", "object", "unnamed", "long name", "huge", "many"],
)
def test_a_state_that_would_not_be_read_is_not_written(values: dict, arrays: dict, number_schema: Schema) -> None:
    model = Stateful(schema=number_schema).fit(make_table(20, 1))
    model.values, model.arrays = {}, {}
    modelfile.loads(modelfile.dumps(model))
    model.values, model.arrays = values, arrays
    with pytest.raises(FormatError):
        modelfile.dumps(model)


def test_every_state_of_a_fit_comes_back(number_schema: Schema) -> None:
    """What a step carries to the parties: the next query is the same there."""
    model = ECOD()
    model.begin(number_schema)
    names = []
    while True:
        again = modelfile.loads(modelfile.dumps(model))
        query, other = model.next_query(), again.next_query()
        if query is None or other is None:
            assert query is other
            break
        assert (query.name, query.length, query.sensitivity_l2) == (other.name, other.length, other.sensitivity_l2)
        names.append(query.name)
        model.advance(query, local_total(query, number_schema, make_table(50, 1)))
    assert names == ["fit", "threshold"]


VECTOR = Path(__file__).parents[1] / "docs" / "wire-formats.md"


def test_the_documented_vector_is_what_is_written() -> None:
    """docs/wire-formats.md prints one whole file in hexadecimal: ECOD after its first sum, as a step carries it."""
    text = VECTOR.read_text(encoding="utf-8")
    section = text[text.index("## Model file") :]
    block = section[section.index("```hex") + len("```hex") :]
    documented = bytes.fromhex(block[: block.index("```")])
    assert documented == modelfile.dumps(vector_model())
    query, expected = modelfile.loads(documented).next_query(), vector_model().next_query()
    assert query is not None
    assert expected is not None
    assert (query.name, query.length) == ("threshold", expected.length)


def vector_model() -> Detector:
    schema = Schema((Column(name="x", low=0.0, high=1.0),))
    model = ECOD(bins=4)
    model.begin(schema)
    query = model.next_query()
    assert query is not None
    model.advance(query, local_total(query, schema, {"x": [0.1, 0.5, 0.6, 0.9]}))
    return model


def test_another_version_names_the_fix(model: Detector) -> None:
    _, header, tensors = split(modelfile.dumps(model))
    with pytest.raises(FormatError, match=r"another version.*Got: 7.*Rule: version 2.*Fix: upgrade"):
        modelfile.loads(join({**header, "version": 7}, tensors))


def test_an_encoder_of_another_form_is_refused(number_schema: Schema) -> None:
    """Same length, other features: it would score other columns, or fail on the first record."""
    _, header, tensors = split(modelfile.dumps(fitted("ECOD", number_schema)))
    edges = header["state"]["encoder"]["edges"]
    shifted = {"kind": "one_hot_bins", "edges": [edges[0][:-1], [*edges[1], 1e9], edges[2]]}
    fewer = {"kind": "one_hot_bins", "edges": [[*edges[0], *(e + 1e6 for e in edges[1]), 1e8], edges[2]]}
    moved = {"kind": "one_hot_bins", "edges": [edges[0], edges[1], [e + 1 for e in edges[2]]]}
    for encoder in (shifted, fewer, moved):
        refused(join(replaced(header, "encoder", encoder), tensors), contains="encoder")
    _, header, tensors = split(modelfile.dumps(fitted("Mahalanobis", number_schema)))
    own = header["state"]["encoder"]
    wide = {**own, "highs": [1e3, 1e4, 1e5]}
    for encoder in (wide, {**own, "levels": 126}):
        refused(join(replaced(header, "encoder", encoder), tensors), contains="encoder")


def test_edges_in_another_last_bit_are_accepted(number_schema: Schema) -> None:
    model = fitted("ECOD", number_schema)
    _, header, tensors = split(modelfile.dumps(model))
    value = encoder_to_json(model.encoder_)
    value["edges"][0] = [float(np.nextafter(e, 200)) for e in value["edges"][0]]
    loaded = modelfile.loads(join(replaced(header, "encoder", value), tensors))
    assert loaded.encoder_ != model.encoder_


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_header_with_any_part_replaced_is_refused_or_harmless(number_schema: Schema, data: st.DataObject) -> None:
    """With the digest recomputed: what loads must score and be written again."""
    _, header, tensors = split(modelfile.dumps(fitted("ECOD", number_schema)))
    node: object = header
    while True:
        assert isinstance(node, dict | list)
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans()):  # type: ignore[index]
            node = node[key]  # type: ignore[index]
        else:
            node[key] = data.draw(JSON)  # type: ignore[index]
            break
    try:
        loaded = modelfile.loads(join(header, tensors))
    except FormatError:
        return
    matrix = np.column_stack([np.full(2, (column.low + column.high) / 2) for column in loaded.schema_.features])  # type: ignore[operator]
    assert np.isfinite(loaded.decision_function(matrix)).all()
    assert np.isfinite(loaded.threshold_)
    modelfile.dumps(loaded)
    bs.inspect(loaded)


def test_sealed_with_a_passphrase(model: Detector, tmp_path: Path) -> None:
    path = tmp_path / "m"
    model.save(path, sealer=Sealer.from_passphrase("correct horse battery"))
    content = path.read_bytes()
    assert b"blindsight-model" not in content
    assert bs.load(path, sealer=Sealer.from_passphrase("correct horse battery")).circuit_ == model.circuit_
    with pytest.raises(AuthenticationError):
        bs.load(path, sealer=Sealer.from_passphrase("wrong horse battery"))
    with pytest.raises(FormatError, match=r"is sealed.*Rule: .*passphrase or key file.*Fix: give --key-file"):
        bs.load(path)
    for position in (len(content) // 2, len(content) - 1):
        altered = bytearray(content)
        altered[position] ^= 1
        path.write_bytes(bytes(altered))
        with pytest.raises((AuthenticationError, FormatError)):
            bs.load(path, sealer=Sealer.from_passphrase("correct horse battery"))


def test_sealed_with_a_key_file(model: Detector, tmp_path: Path) -> None:
    create_key_file(tmp_path / "one.key")
    create_key_file(tmp_path / "two.key")
    path = tmp_path / "m"
    bs.keys.Sealer.from_key_file(tmp_path / "one.key")
    model.save(path, sealer=Sealer.from_key_file(tmp_path / "one.key"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert bs.load(path, sealer=Sealer.from_key_file(tmp_path / "one.key")).circuit_ == model.circuit_
    with pytest.raises(AuthenticationError):
        bs.load(path, sealer=Sealer.from_key_file(tmp_path / "two.key"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"'nowhere' cannot be read.*Fix: check path"):
        bs.load(tmp_path / "nowhere")
    (tmp_path / "models").mkdir()
    for folder, named in ((tmp_path / "models", "'models'"), (".", "'.'"), ("/", "'/'")):
        with pytest.raises(StoreError, match=rf"The model {named} cannot be read. Got: a folder.*the path of a file"):
            bs.load(folder)


def test_an_unfitted_model_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        ECOD().save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(model: Detector, tmp_path: Path) -> None:
    path = tmp_path / "m"
    model.save(path)
    before = path.read_bytes()
    script = textwrap.dedent(
        """
        import resource, sys
        import blindsight as bs
        model = bs.load(sys.argv[1]).set_params(contamination=.2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            model.save(sys.argv[1])
        except bs.errors.StoreError as error:
            print(error)
            sys.exit(7)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "could not be written" in done.stdout
    assert "as it was" in done.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_no_training_row_and_no_score_is_in_the_file(model: Detector, number_schema: Schema) -> None:
    data = modelfile.dumps(model)
    table = make_table(200, 1)
    (chunk,) = list(records(number_schema, table))
    for column in (chunk.X[:, 0], chunk.X[:, 1], model.decision_function(table)):
        for value in column[:50].tolist():
            if value == round(value, 1):
                continue  # the end of a range, which is public
            assert struct.pack("<d", value) not in data
            assert repr(value).encode() not in data
    # the exact extremes of the data are not in it either
    assert repr(float(chunk.X[:, 0].max())).encode() not in data


def test_inspect_shows_no_weight_and_no_count(model: Detector) -> None:
    seen = bs.inspect(model)
    assert seen["features"] == ["age", "amount", "balance"]
    assert seen["records"] == 200
    assert seen["ranges"] == "declared"
    json.dumps(seen)
    assert not any(isinstance(v, np.ndarray) for v in seen.values())
    assert str(int(np.abs(model.circuit_.weights).max())) not in json.dumps(seen)
