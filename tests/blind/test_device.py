"""Products of residues on a device: torch's integers are NumPy's, at the very edge of what float64 holds."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from blindsight.blind import RecordOwner, Scorer
from blindsight.blind._ckks_circuit import EXACT_WEIGHT_SUM as NETWORK_WEIGHT_SUM
from blindsight.blind._ckks_circuit import IntegerNetwork
from blindsight.blind._columns import EXACT_WEIGHT_SUM, Columns
from blindsight.blind._device import ResidueDevice, _check_exact, open_device
from blindsight.blind._plan import BlindParameters
from blindsight.errors import CapacityError, MissingExtraError, ParameterError, WireError
from blindsight.he import CkksHeParameters, HeContext

from ._models import distance_model, quadratic_model, records, table_model
from ._networks import network_model, rows_of

torch = pytest.importorskip("torch", reason="needs torch")

ENTRIES = 70


@pytest.fixture(scope="module")
def cpu():
    return open_device("cpu")


# -- BFV columns


def parameters(weight_bits):
    return BlindParameters(
        packing="columns", upload="unseeded", entries=ENTRIES, degree=4096, plain_bits=36, weight_bits=weight_bits
    )


@pytest.fixture(scope="module")
def context():
    return HeContext(parameters(20).he)


def residues_of(context, kind):
    """(primes, entries, 2N): the largest there are, or random ones with the largest and zeros among them."""
    rng = np.random.default_rng(3)
    parts = []
    for p in context.primes:
        part = np.full((ENTRIES, 2 * 4096), p - 1, dtype=np.uint32)
        if kind == "random":
            part = rng.integers(0, p, part.shape, dtype=np.uint32)
            part[rng.random(part.shape) < 0.1] = p - 1
            part[:, :7] = 0
        parts.append(part)
    return np.stack(parts)


def weights_of(kind):
    rng = np.random.default_rng(4)
    if kind == "small":
        return rng.integers(-1000, 1000, ENTRIES)
    if kind == "edge":  # every run of two weights sums to one less than float64 holds
        return np.full(ENTRIES, EXACT_WEIGHT_SUM // 2 - 1)
    if kind == "negative edge":
        return np.full(ENTRIES, 1 - EXACT_WEIGHT_SUM // 2)
    weights = rng.integers(-(1 << 40), 1 << 40, ENTRIES)  # in two digits
    weights[:4] = [(1 << 40) - 1, -(1 << 40), (1 << 20) - 1, -1]
    return weights


@pytest.mark.parametrize("residues", ["random", "largest"])
@pytest.mark.parametrize("weights", ["small", "edge", "negative edge", "digits"])
def test_inner_products_are_the_same_integers(context, cpu, weights, residues):
    w, R = weights_of(weights), residues_of(context, residues)
    body = memoryview(R.tobytes())
    here = Columns(context, parameters(20)).prepare(w)(body, ([], []), False)
    there = Columns(context, parameters(20), device=cpu).prepare(w)(body, ([], []), False)
    assert there.dtype == here.dtype == np.uint64
    assert there.shape == here.shape == (2, 3, 4096)
    assert np.array_equal(here, there)
    some = [0, 5, 6, 7, 8, 100, 4096, 8191]  # and what Python's own integers say
    for i, p in enumerate(context.primes):
        exact = [sum(int(a) * int(b) for a, b in zip(w, R[i, :, j], strict=True)) % p for j in some]
        assert there[:, i].reshape(-1)[some].tolist() == exact


@pytest.mark.parametrize("value", ["p", 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("place", [(0, 0, 0), (2, ENTRIES - 1, 8191)])
def test_residues_that_are_not_reduced_are_refused(context, cpu, value, place):
    R = residues_of(context, "random")
    R[place] = context.primes[place[0]] if value == "p" else value
    evaluate = Columns(context, parameters(20), device=cpu).prepare(weights_of("small"))
    with pytest.raises(WireError, match="not reduced"):
        evaluate(memoryview(R.tobytes()), ([], []), False)


def test_pieces_of_any_size_give_the_same(context, cpu):
    w, R = weights_of("digits"), residues_of(context, "random")
    body = memoryview(R.tobytes())
    expected = Columns(context, parameters(20)).prepare(w)(body, ([], []), False)
    for size in (1, 8 * 8192 * 3, 1 << 30):
        device = ResidueDevice("cpu")
        device.piece_bytes = size
        evaluate = Columns(context, parameters(20), device=device).prepare(w)
        assert np.array_equal(evaluate(body, ([], []), False), expected)
        held = sum(buffer.nbytes for buffer in device._buffers)
        assert held <= max(size, 8 * 8192)  # two buffers of half as many bytes as the piece in float64


def test_two_threads_on_one_device(context, cpu):
    w, bodies = (
        weights_of("small"),
        [memoryview(residues_of(context, kind).tobytes()) for kind in ("random", "largest")],
    )
    evaluate = Columns(context, parameters(20), device=cpu).prepare(w)
    expected = [evaluate(body, ([], []), False) for body in bodies]
    wrong = []

    def work(i):
        for _ in range(3):
            if not np.array_equal(evaluate(bodies[i], ([], []), False), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not np.array_equal(*expected)


# -- CKKS columns


def integers(kind):
    """Weights whose absolute values sum to the most that is allowed in every row."""
    rng = np.random.default_rng(5)

    def matrix(rows, columns):
        top = (NETWORK_WEIGHT_SUM - 1) // columns
        signs = rng.choice([-1, 1], (rows, columns)) if kind != "one sign" else np.ones((rows, columns))
        return signs * top

    digits = 2 if kind == "digits" else 1
    outputs = 300 if kind == "one square" else 5  # more than one int64 sums
    hidden = 1 if kind == "one square" else 3
    return IntegerNetwork(
        first=[matrix(hidden, 6) for _ in range(digits)],
        first_bias=[1 << 70] * hidden,
        second=None if kind == "one square" else [matrix(outputs, hidden) for _ in range(digits)],
        linear=[matrix(outputs, 6) for _ in range(digits)],
        bias=[-(1 << 90) - k for k in range(outputs)],
        lift=1 << 61,
        offset=-(1 << 80) - 1,
    )


@pytest.mark.parametrize("piece_bytes", [1, 1 << 22])
@pytest.mark.parametrize("residues", ["random", "largest"])
@pytest.mark.parametrize("kind", ["one square", "one sign", "two squares", "digits"])
def test_networks_are_the_same_integers(kind, residues, piece_bytes):
    network, primes = integers(kind), CkksHeParameters(degree=8192, count=2, kept=1).primes
    rng = np.random.default_rng(6)
    shape = (6, 2, 600)  # two pieces and a rest, where pieces are small
    parts = [np.full(shape, p - 1) if residues == "largest" else rng.integers(0, p, shape) for p in primes]
    inputs = np.stack(parts).astype(np.uint32)
    device = ResidueDevice("cpu")
    device.piece_bytes = piece_bytes
    evaluate = device.scores(network, primes)
    here, there = network.evaluate(inputs, primes), evaluate(inputs)
    assert there.dtype == here.dtype == np.uint64
    assert np.array_equal(here, there)
    for place, value in (((0, 0, 0, 0), primes[0]), ((1, 5, 1, 599), (1 << 32) - 1)):
        wrong = inputs.copy()
        wrong[place] = value
        with pytest.raises(WireError, match="not reduced"):
            evaluate(wrong)


# -- scorers


def test_a_quadratic_form_under_ckks_on_a_device_keeps_its_promise():
    model = distance_model(4, bias=-(5 << 24))
    X = records(model, 20)
    scorer = Scorer(model, packing="columns", scheme="ckks", tolerance=0.01, device="cpu")
    owner = RecordOwner(scorer.offer())
    scores, clear = owner.open(scorer.score(owner.seal(X))), model.decision_function(X)
    assert (np.abs(scores - clear) <= [scorer.parameters.error(score) for score in clear.tolist()]).all()


@pytest.mark.parametrize("upload", ["seeded", "unseeded"])
def test_a_scorer_on_a_device_is_exact(upload):
    model = quadratic_model(5)
    X = records(model, 40)
    scorer = Scorer(model, packing="columns", upload=upload, device="cpu")
    owner = RecordOwner(scorer.offer())
    assert np.array_equal(owner.open(scorer.score(owner.seal(X))), model.decision_function(X))


def test_a_network_s_scorer_on_a_device_keeps_its_promise():
    model = network_model("quadratic")
    X = rows_of(model, 20)
    scorer = Scorer(model, packing="columns", device="cpu")
    owner = RecordOwner(scorer.offer())
    scores, clear = owner.open(scorer.score(owner.seal(X))), model.decision_function(X)
    for blind, exact in zip(scores.tolist(), clear.tolist(), strict=True):
        assert abs(blind - exact) <= scorer.parameters.error(exact)


# -- what is refused


@pytest.mark.parametrize(
    "name", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:1234", "mps", "meta", "cpu\n", 0, b"cpu"]
)
def test_names_of_no_device(name):
    with pytest.raises(ParameterError, match="device is out of its domain"):
        Scorer(table_model(2, 4), packing="columns", device=name)


def test_a_device_that_is_not_there():
    with pytest.raises(ParameterError, match="torch does not see this device"):
        open_device(f"cuda:{torch.cuda.device_count()}")


def test_rows_take_no_device():
    with pytest.raises(ParameterError, match="A device is for columns"):
        Scorer(table_model(2, 4), packing="rows", device="cpu")


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'blindsight\[deep\]'"):
        open_device("cpu")


def test_emulated_float64_is_refused(monkeypatch):
    monkeypatch.setenv("CUBLAS_EMULATE_DOUBLE_PRECISION", "1")
    with pytest.raises(ParameterError, match="emulate float64"):
        open_device("cuda")


def test_a_device_that_rounds_is_found_out(cpu):
    class Rounding(ResidueDevice):
        def _floats(self, values):
            return super()._floats(values).float().double()

    _check_exact(cpu)
    with pytest.raises(CapacityError, match="not exact"):
        _check_exact(Rounding("cpu"))


def test_numpy_needs_no_torch():
    code = (
        "import sys; from blind._models import table_model; from blindsight.blind import Scorer; "
        "Scorer(table_model(2, 4), packing='columns'); assert 'torch' not in sys.modules"
    )
    folder = __file__.rpartition("/blind/")[0]
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=60)
