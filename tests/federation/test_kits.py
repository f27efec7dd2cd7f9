"""Authority, kits and requests: what is in them, who may read them, and what is refused."""

from __future__ import annotations

import datetime
import shutil
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from blindsight.data import Schema
from blindsight.errors import AuthenticationError, BlindsightError, FormatError, ParameterError, StoreError
from blindsight.federation import Policy, accept_list, enrol, join, open_party
from blindsight.federation.kits import EnrolmentRequest, ParticipantList, Workshop, read_plan
from blindsight.keys import (
    Authority,
    Identity,
    certificate_fingerprint,
    certificate_names,
    certificate_problems,
    create_key_file,
    read_certificate_file,
    read_certificate_request,
    read_tls_key,
    write_tls_key,
)
from sample_tables import NUMBER_SCHEMA, make_table

from .conftest import PLAN


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_keys_are_private_and_the_authority_is_in_no_kit(made: Path) -> None:
    kits = made / "kits"
    private = [*kits.rglob("*.key"), *kits.rglob("identity"), *kits.rglob("federation.identity")]
    assert len(private) == 3 * 3 + 1 + 3
    assert {mode(path) for path in private} == {0o600}
    authority = (kits / "authority" / "authority.key").read_bytes()
    for path in kits.rglob("*"):
        if path.is_file() and path.parent.name != "authority":
            assert authority not in path.read_bytes()
    assert {mode(path) for path in kits.iterdir() if path.is_dir()} == {0o700}


def test_a_kit_says_in_words_what_it_is_and_opens_as_a_party(folder: Path) -> None:
    kit = folder / "kits" / "bank-a"
    listing = ParticipantList.read(kit)
    text = (kit / "README.txt").read_text()
    for file in kit.iterdir():
        assert file.name in text or file.name == "README.txt", file
    assert listing.fingerprint in text
    assert listing.party("bank-a").fingerprint in text  # type: ignore[union-attr]
    assert "Olga, +43 1 999" in text
    assert Schema.read(kit / "schema.toml").digest() == NUMBER_SCHEMA.digest()
    assert Policy.read(kit / "policy.toml") == Policy()
    make_table(30, 1).write_csv(kit / "records.csv")
    party = open_party(kit)
    assert party.name == "bank-a"
    assert party.public_key.hex() == listing.party("bank-a").public_key  # type: ignore[union-attr]
    assert party.listing == listing


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A TLS handshake in memory."""
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(a, b, server_hostname=host)
    theirs = server.wrap_bio(b, a, server_side=True)
    for _ in range(10):
        done = True
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                done = False
        if done:
            return ours, theirs
    raise AssertionError("no handshake")


def contexts(kits: Path, party: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=kits / "coordinator" / "authority.crt")
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(kits / "coordinator" / "tls.crt", kits / "coordinator" / "tls.key")
    client = ssl.create_default_context(cafile=kits / party / "authority.crt")
    client.load_cert_chain(kits / party / "tls.crt", kits / party / "keys" / "tls.key")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    return server, client


@pytest.mark.parametrize("host", ["127.0.0.1", "federation.example.org"])
def test_the_certificates_make_a_mutual_tls_1_3_handshake(made: Path, host: str) -> None:
    ours, theirs = handshake(*contexts(made / "kits", "bank-b"), host)
    assert ours.version() == "TLSv1.3"
    listing = ParticipantList.read(made / "kits")
    assert certificate_fingerprint(theirs.getpeercert(binary_form=True)) == listing.certificates["bank-b"]  # type: ignore[arg-type]
    assert certificate_fingerprint(ours.getpeercert(binary_form=True)) == listing.coordinator.certificate  # type: ignore[arg-type]


def test_another_host_or_a_party_as_a_server_is_no_handshake(made: Path) -> None:
    server, client = contexts(made / "kits", "bank-b")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "elsewhere.example.org")
    kit = made / "kits" / "bank-c"  # a party's certificate is for clients: it cannot play the coordinator
    server.load_cert_chain(kit / "tls.crt", kit / "keys" / "tls.key")
    client.check_hostname = False
    with pytest.raises(ssl.SSLCertVerificationError, match=r"purpose|unsuitable"):
        handshake(server, client, "bank-c")


def test_certificate_problems_in_words(made: Path, tmp_path: Path) -> None:
    kits = made / "kits"
    authority = read_certificate_file(kits / "bank-a" / "authority.crt")
    own = read_certificate_file(kits / "bank-a" / "tls.crt")
    server = read_certificate_file(kits / "coordinator" / "tls.crt")
    assert certificate_problems(own, authority, server=False, name="bank-a") == []
    assert certificate_problems(server, authority, server=True, name="127.0.0.1") == []
    assert set(certificate_names(server)) == {"127.0.0.1", "federation.example.org"}
    assert certificate_problems(own, authority, server=True) == ["it is not for a server"]
    assert certificate_problems(own, authority, server=False, name="bank-b") == ["it is for bank-a, not for bank-b"]
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=31)
    (late,) = certificate_problems(own, authority, server=False, at=later)
    assert late.startswith("it expired on 20")
    (early,) = certificate_problems(
        own, authority, server=False, at=own.not_valid_before_utc - datetime.timedelta(seconds=1)
    )[:1]
    assert early.startswith("it is not valid before")
    other = Authority.create(tmp_path / "a.crt", tmp_path / "a.key", name="other", days=10)
    assert "it was not issued by the federation's authority" in certificate_problems(
        own, other.certificate, server=False
    )
    assert "it may sign others, which only the authority's may" in certificate_problems(
        authority, authority, server=False
    ) or "it is not for a client" in certificate_problems(authority, authority, server=False)
    for secret in (repr(other),):
        assert "PRIVATE" not in secret
    with pytest.raises(TypeError, match="not pickled"):
        other.__reduce__()
    write_tls_key(tmp_path / "b.key")
    with pytest.raises(AuthenticationError, match="do not belong together"):
        Authority.load(tmp_path / "a.crt", tmp_path / "b.key")
    (tmp_path / "b.key").chmod(0o644)
    with pytest.raises(StoreError, match=r"open to others.*chmod 600"):
        read_tls_key(tmp_path / "b.key")


# -- the federation file


def plan_problems(tmp_path: Path, text: str) -> str:
    (tmp_path / "federation.toml").write_text(text)
    with pytest.raises(ParameterError) as caught:
        read_plan(tmp_path / "federation.toml")
    return str(caught.value)


def test_everything_wrong_with_a_federation_file_is_said_at_once(tmp_path: Path) -> None:
    text = plan_problems(
        tmp_path,
        """
        nam = "x"
        name = "../up"
        validity_days = "long"
        schema = "nowhere.toml"
        [coordinator]
        addresses = ["http://plain.example.org", "https://user@host/path"]
        [[parties]]
        name = "bank/a"
        [[parties]]
        name = "Bank-A"
        phone = 1
        [[parties]]
        name = "bank-a"
        contact = "two\\nlines"
        [[parties]]
        name = "coordinator"
        [[parties]]
        contact = "nameless"
        """,
    )
    assert "has 12 problems" in text
    for part in (
        "nam: unknown", "name: '../up'", "try 'up'", "validity_days: a whole number of days, 1 to 825",
        "no file 'nowhere.toml'", "'http://plain.example.org' is no address", "'https://user@host/path'",
        "'bank/a' is no name", "try 'bank-a'", "parties[2].phone: unknown", "'bank-a' and 'Bank-A' are one name",
        "one printable line", "'coordinator' is reserved", "parties[5].name: missing",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize(
    "text",
    ["", "name = ", "x" * 300_000, "a = " + "[" * 50_000, "name = 'x'\nparties = 3\ncoordinator = 4", "parties=[1]",
     "[coordinator]\naddresses = ['https://[::1']", "[coordinator]\naddresses = ['https://h:99999']",
     "[coordinator]\naddresses = ['https://h:0']", "[coordinator]\naddresses = ['flower://h']"],
)  # fmt: skip
def test_malformed_federation_files(tmp_path: Path, text: str) -> None:
    assert "Fix: " in plan_problems(tmp_path, text)


def test_a_file_that_is_not_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParameterError, match="is not TOML"):
        read_plan(tmp_path / "f.toml")
    with pytest.raises(StoreError, match="could not be read"):
        read_plan(tmp_path / "none.toml")


def test_two_parties_are_too_few(tmp_path: Path) -> None:
    text = plan_problems(
        tmp_path, PLAN.replace('\n[[parties]]\nname = "bank-c"\n', "").replace("schema.toml", "federation.toml")
    )
    assert "parties: 2; a federation has 3 to 256" in text


# -- the workshop


def test_kits_are_never_written_over_others(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(StoreError, match="not empty"):
        Workshop.create(read_plan(folder / "federation.toml"), folder / "kits")
    assert sorted(folder.rglob("*")) == before
    with pytest.raises(StoreError, match="no federation's authority"):
        Workshop(folder)


def test_add_rotate_revoke_make_the_next_list(workshop: Workshop) -> None:
    kits = workshop.folder
    first = workshop.current
    second = workshop.add("bank-d", contact="Dora")
    assert [party.name for party in second.parties] == ["bank-a", "bank-b", "bank-c", "bank-d"]
    third = workshop.rotate("bank-a")
    assert third.party("bank-a").public_key == first.party("bank-a").public_key  # type: ignore[union-attr]
    assert third.party("bank-a").certificate != first.party("bank-a").certificate  # type: ignore[union-attr]
    fourth = workshop.rotate("bank-b", identity=True)
    assert fourth.party("bank-b").public_key != first.party("bank-b").public_key  # type: ignore[union-attr]
    fifth = workshop.revoke("bank-c")
    sixth = workshop.rotate_coordinator()
    assert [one.serial for one in (first, second, third, fourth, fifth, sixth)] == [1, 2, 3, 4, 5, 6]
    assert [(one.name, one.reason, one.serial) for one in sixth.revoked] == [
        ("bank-a", "certificate rotated", 3),
        ("bank-b", "identity rotated", 4),
        ("bank-c", "revoked", 5),
    ]
    assert sixth.coordinator.certificate != first.coordinator.certificate
    assert certificate_fingerprint(read_certificate_file(kits / "coordinator-6" / "tls.crt")) == (
        sixth.coordinator.certificate
    )
    assert ParticipantList.read(kits) == sixth == Workshop(kits).current
    assert not (kits / "bank-a-3" / "keys" / "identity").exists(), "a renewed certificate leaves the identity alone"
    assert (kits / "bank-b-4" / "keys" / "identity").exists()
    assert not list(kits.glob(".*"))
    with pytest.raises(ParameterError, match=r"No party 'bank-c' is on the list.*bank-a, bank-b, bank-d"):
        workshop.revoke("bank-c")
    for name in ("a/b", "../bank", "bank-A", "coordinator", "authority", ""):
        with pytest.raises(ParameterError, match="cannot be added"):
            workshop.add(name, contact="x")
    with pytest.raises(StoreError, match="folder 'bank-c' among the kits already"):
        workshop.add("bank-c", contact="x")
    assert workshop.current.serial == 6


def test_two_people_cannot_issue_one_serial(workshop: Workshop) -> None:
    other = Workshop(workshop.folder)
    workshop.add("bank-d", contact="x")
    with pytest.raises(StoreError, match="exists already"):
        other.add("bank-e", contact="x")
    assert not (workshop.folder / "bank-e").exists()
    assert not list(workshop.folder.glob(".kit-*"))


def test_an_authority_with_another_key_is_noticed(workshop: Workshop, tmp_path: Path) -> None:
    other = Workshop.create(workshop.plan, tmp_path / "second")
    lists = Path("authority") / "lists" / "participants-1.json"
    (workshop.folder / lists).write_bytes((other.folder / lists).read_bytes())
    with pytest.raises(AuthenticationError, match="not by this federation's key"):
        Workshop(workshop.folder)


# -- keys that stay where they were made


@pytest.fixture
def enrolled(folder: Path) -> dict[str, Path]:
    parties = {}
    for name in ("bank-a", "bank-b", "bank-c"):
        parties[name] = folder / "sites" / name
        enrol(parties[name], name=name, federation="card-fraud", contact=f"somebody at {name}")
    return parties


def test_private_keys_never_travel(folder: Path, enrolled: dict[str, Path]) -> None:
    requests = [EnrolmentRequest.read(site / "request.json") for site in enrolled.values()]
    plan = read_plan(folder / "federation.toml")
    with pytest.raises(ParameterError, match=r"sent no request.*bank-c.*--make-keys"):
        Workshop.create(plan, folder / "new", requests=requests[:2])
    workshop = Workshop.create(plan, folder / "new", requests=requests)
    assert not list((folder / "new").glob("bank-*/keys"))
    secret = [path.read_bytes() for site in enrolled.values() for path in (site / "keys").iterdir()]
    for path in (folder / "new").rglob("*"):
        assert not path.is_file() or not any(key in path.read_bytes() for key in secret)
    site = enrolled["bank-a"]
    (site / "policy.toml").write_text("maximum_epsilon = 0.5\n")
    joined = join(folder / "new" / "bank-a", site, fingerprint=workshop.current.fingerprint.upper())
    assert joined == workshop.current
    assert Policy.read(site / "policy.toml").maximum_epsilon == 0.5, "a policy is its owner's"
    make_table(20, 1).write_csv(site / "records.csv")
    assert open_party(site).public_key.hex() == requests[0].public_key


def test_a_kit_that_does_not_fit_changes_nothing(folder: Path, enrolled: dict[str, Path]) -> None:
    requests = [EnrolmentRequest.read(site / "request.json") for site in enrolled.values()]
    workshop = Workshop.create(read_plan(folder / "federation.toml"), folder / "new", requests=requests)
    other = Workshop.create(workshop.plan, folder / "other", requests=requests)
    site, kit = enrolled["bank-a"], folder / "new" / "bank-a"
    good = (kit / "tls.crt").read_bytes()
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}

    def refused(kind: type[BlindsightError], match: str, **options: str) -> None:
        with pytest.raises(kind, match=match):
            join(kit, site, **options)
        assert {path: path.read_bytes() for path in site.rglob("*") if path in before} == before
        assert not (site / "policy.toml").exists()

    refused(AuthenticationError, "not the one that was given", fingerprint="0000-1111")
    (kit / "tls.crt").write_bytes((folder / "new" / "bank-b" / "tls.crt").read_bytes())
    refused(AuthenticationError, "certificate is for a key that is not here")
    (kit / "tls.crt").write_bytes((other.folder / "bank-a" / "tls.crt").read_bytes())
    refused(AuthenticationError, "not issued by the federation's authority; .*names another certificate")
    (kit / "tls.crt").write_bytes(b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    refused(FormatError, "is not a certificate")
    (kit / "tls.crt").write_bytes(good)
    (kit / "authority.crt").write_bytes((other.folder / "bank-a" / "authority.crt").read_bytes())
    refused(AuthenticationError, "authority is not the one on the participant list")
    (kit / "authority.crt").write_bytes((folder / "new" / "bank-b" / "authority.crt").read_bytes())
    join(kit, site)
    with pytest.raises(AuthenticationError, match="Another federation's key is pinned"):
        join(other.folder / "bank-a", site)


def test_renewing_a_certificate_leaves_identity_and_ledger(folder: Path, enrolled: dict[str, Path]) -> None:
    requests = [EnrolmentRequest.read(site / "request.json") for site in enrolled.values()]
    workshop = Workshop.create(read_plan(folder / "federation.toml"), folder / "new", requests=requests)
    site = enrolled["bank-a"]
    join(folder / "new" / "bank-a", site)
    old = read_tls_key(site / "keys" / "tls.key").private_numbers()
    request = enrol(site, name="bank-a", federation="card-fraud", contact="x", new_tls_key=True)
    assert read_tls_key(site / "keys" / "tls.key").private_numbers() == old, "the present key works until the answer"
    listing = workshop.rotate("bank-a", request=request)
    join(folder / "new" / "bank-a-2", site)
    assert read_tls_key(site / "keys" / "tls.key").private_numbers() != old
    assert not (site / "keys" / "tls.key.new").exists()
    assert listing.revoked[0].reason == "certificate rotated"
    accept_list(folder / "new" / "participants.signed.json", site)


def test_an_identity_that_init_made_is_sealed_anew(folder: Path, workshop: Workshop, tmp_path: Path) -> None:
    """Into a folder of its own, under a key file of its own; and again when it is rotated. The ledger stays."""
    create_key_file(tmp_path / "seal.key")
    site = tmp_path / "site"
    join(folder / "kits" / "bank-a", site, key_file=tmp_path / "seal.key")
    make_table(20, 1).write_csv(site / "records.csv")
    first = open_party(site, key_file=tmp_path / "seal.key")
    assert not (site / "keys" / "home.key").exists()
    workshop.rotate("bank-a", identity=True)
    with pytest.raises(AuthenticationError, match=r"does not hold this party's key.*identity rotated by list 2"):
        accept_list(folder / "kits", site, key_file=tmp_path / "seal.key")
    for _ in range(2):  # the second time changes nothing
        join(folder / "kits" / "bank-a-2", site, key_file=tmp_path / "seal.key")
    second = open_party(site, key_file=tmp_path / "seal.key")
    assert second.public_key != first.public_key
    assert second.public_key.hex() == workshop.current.party("bank-a").public_key  # type: ignore[union-attr]
    assert read_tls_key(site / "keys" / "tls.key").public_key() == read_certificate_file(site / "tls.crt").public_key()
    assert {mode(path) for path in (site / "keys").iterdir()} == {0o600}


def test_requests_for_somebody_else(folder: Path, workshop: Workshop, enrolled: dict[str, Path]) -> None:
    request = EnrolmentRequest.read(enrolled["bank-a"] / "request.json")
    with pytest.raises(ParameterError, match="for somebody else"):
        workshop.add("bank-d", contact="x", request=request)
    plan = read_plan(folder / "federation.toml")
    stranger = enrol(folder / "s", name="bank-x", federation="card-fraud", contact="x")
    with pytest.raises(ParameterError, match="'bank-x' is not in the federation file"):
        Workshop.create(plan, folder / "n", requests=[stranger])
    with pytest.raises(ParameterError, match="two requests for 'bank-a'"):
        Workshop.create(plan, folder / "n", requests=[request, request])
    copied = enrol(enrolled["bank-a"], name="bank-b", federation="card-fraud", contact="x")
    with pytest.raises(ParameterError, match="'bank-b' has the key of another party"):
        Workshop.create(plan, folder / "n", requests=[request, copied])
    gone = workshop.rotate("bank-a", request=request)
    workshop.revoke("bank-a")
    with pytest.raises(AuthenticationError, match="revoked, or another party's"):
        workshop.add("bank-a", contact="x", request=request)
    assert gone.party("bank-a").fingerprint == request.fingerprint  # type: ignore[union-attr]
    for name in ("a/b", "", ".."):
        with pytest.raises(ParameterError, match="name cannot be used"):
            enrol(folder / "s2", name=name, federation="card-fraud", contact="x")
    assert not (folder / "s2").exists()


def csr(name: str, key: object, *more: str) -> bytes:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, one) for one in (name, *more)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]


def test_certificate_requests_as_strangers_send_them() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    good = csr("bank-a", key)
    assert read_certificate_request(good, name="bank-a") == key.public_key()
    for bad, match in (
        (b"", "malformed"),
        (b"\0" * 10_000_000, "too long"),
        (good[:-60], "malformed"),
        (good.replace(b"REQUEST", b"RUBBISH"), "malformed"),
        (csr("bank-b", key), "for another name"),
        (csr("bank-a", key, "bank-b"), "for another name"),
        (csr("bank-a", ec.generate_private_key(ec.SECP384R1())), "another kind of key"),
        (csr("bank-a", rsa.generate_private_key(public_exponent=65537, key_size=2048)), "another kind of key"),
    ):
        with pytest.raises(FormatError, match=match):
            read_certificate_request(bad, name="bank-a")
    other = ec.generate_private_key(ec.SECP256R1())
    one, two = (x509.load_pem_x509_csr(csr("bank-a", k)).public_bytes(serialization.Encoding.DER) for k in (key, other))
    # the body of one with the signature of the other; both signatures have some seventy bytes at the end
    body = x509.load_der_x509_csr(one).tbs_certrequest_bytes
    swapped = two.replace(x509.load_der_x509_csr(two).tbs_certrequest_bytes, body)
    pem = x509.load_der_x509_csr(swapped).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(AuthenticationError, match="not by its key"):
        read_certificate_request(pem, name="bank-a")


def test_requests_that_were_altered(folder: Path) -> None:
    request = enrol(folder / "s", name="bank-a", federation="card-fraud", contact="Ada")
    data = request.data
    assert EnrolmentRequest.from_bytes(data).fingerprint == request.fingerprint
    assert b"PRIVATE" not in data
    path = folder / "r.json"
    for bad, kind, match in (
        (data.replace(b"Ada", b"Eve"), AuthenticationError, "signature of the enrolment request does not hold"),
        (data[:-1], FormatError, "canonical"),
        (data + b" ", FormatError, "canonical"),
        (b" " + data, FormatError, "canonical"),
        (data[:200], FormatError, "malformed"),
        (b"[" * 60_000, FormatError, "malformed"),
        (b"x" * 10_000_000, FormatError, "too long"),
    ):
        path.write_bytes(bad)
        with pytest.raises(kind, match=match):
            EnrolmentRequest.read(path)
    evil = Identity.generate()
    again = EnrolmentRequest.make(
        federation="card-fraud", name="bank-a", contact="Ada", identity=evil, tls_key=write_tls_key(folder / "k")
    )
    assert again.fingerprint != request.fingerprint, "which is what the telephone is for"


def test_a_broker_has_a_kit_that_follows_the_list(folder: Path, tmp_path: Path) -> None:
    plan = (folder / "federation.toml").read_text()
    https = 'addresses = ["https://127.0.0.1:8443", "https://federation.example.org"]'
    mqtts = 'addresses = ["mqtts://broker.example.org:8883", "https://federation.example.org"]'
    assert https in plan
    (folder / "federation.toml").write_text(plan.replace(https, mqtts))
    kits = tmp_path / "kits"
    workshop = Workshop.create(read_plan(folder / "federation.toml"), kits)
    broker, coordinator = kits / "broker", kits / "coordinator"
    own, authority = read_certificate_file(broker / "tls.crt"), read_certificate_file(broker / "authority.crt")
    assert certificate_problems(own, authority, server=True, name="broker.example.org") == []
    assert certificate_problems(own, authority, server=False) == ["it is not for a client"]
    assert stat.S_IMODE((broker / "tls.key").stat().st_mode) == 0o600
    # the coordinator dials it, and names no host of it: nobody is taken for both
    server = read_certificate_file(coordinator / "tls.crt")
    assert certificate_problems(server, authority, server=True, name="federation.example.org") == []
    assert certificate_problems(server, authority, server=False) == []
    assert certificate_problems(server, authority, server=True, name="broker.example.org") != []

    def users() -> list[str]:
        lines = (broker / "acl").read_text().splitlines()
        prefix = f"blindsight/{workshop.current.coordinator.certificate[:32]}/"
        assert all(prefix in line for line in lines if line.startswith("topic"))
        return [line.removeprefix("user ") for line in lines if line.startswith("user")]

    assert users() == ["coordinator", "bank-a", "bank-b", "bank-c"]
    workshop.add("bank-d", contact="Dora")
    assert users() == ["coordinator", "bank-a", "bank-b", "bank-c", "bank-d"]
    workshop.revoke("bank-b")
    assert users() == ["coordinator", "bank-a", "bank-c", "bank-d"]
    before = (broker / "acl").read_text()
    workshop.rotate_coordinator()  # its topics are others
    assert users() == ["coordinator", "bank-a", "bank-c", "bank-d"]
    assert (broker / "acl").read_text() != before
    new = workshop.rotate_broker()
    assert new.name == "broker-2"
    assert read_certificate_file(new / "tls.crt") != own
    assert (new / "acl").read_text() == (broker / "acl").read_text()
    shutil.rmtree(broker)  # it is on its machine; what changes is left here to be sent
    workshop.revoke("bank-d")
    assert users() == ["coordinator", "bank-a", "bank-c"]
    assert sorted(path.name for path in broker.iterdir()) == ["README.txt", "acl", "authority.crt", "mosquitto.conf"]
    # a federation that had none gets one
    with pytest.raises(ParameterError, match="The federation has no broker"):
        Workshop(folder / "kits").rotate_broker()
    own_plan = folder / "kits" / "authority" / "federation.toml"
    own_plan.write_text(own_plan.read_text().replace(https, mqtts))
    Workshop(folder / "kits").rotate_coordinator()
    server = read_certificate_file(folder / "kits" / "coordinator-2" / "tls.crt")
    assert certificate_problems(server, read_certificate_file(folder / "kits/broker/authority.crt"), server=False) == []
    assert (Workshop(folder / "kits").rotate_broker() / "tls.key").is_file()
