"""``blindsight jobs``: what was asked of this party, and a person's word on it."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ._exits import command
from ._options import JsonOption, KeyFileOption, identity_of, passphrase_of, writable_target
from ._screen import Screen

if TYPE_CHECKING:
    from blindsight.federation import Job, Party

__all__ = ["jobs_app"]

FolderOption = Annotated[Path, typer.Option("--home", help="The party's own folder.")]
JobArgument = Annotated[str, typer.Argument(help="The job's id, or its first letters.")]
AsOption = Annotated[
    str | None, typer.Option("--as", help="Who decides, as the policy names them.  [default: your user name]")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", help="Your key of 'jobs key'.  [default: the party's own identity, if nobody is named]"),
]
PassphraseOption = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File with your key's passphrase.  [default: asks]")
]
NoteOption = Annotated[
    str, typer.Option("--note", help="Kept with the decision; a refusal's is told to the coordinator.")
]

jobs_app = typer.Typer(
    help="Look at what was asked of this party, and approve or refuse it. Works while the party runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@jobs_app.command("list", epilog="Example: blindsight jobs list --home bank-a")
@command
def list_jobs(
    home: FolderOption = Path(),
    state: Annotated[str | None, typer.Option(help="Only these: waits, running, done, refused or expired.")] = None,
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """List every run that was asked for here, oldest first."""
    from blindsight.errors import ParameterError

    states = ("waits", "running", "done", "refused", "expired")
    if state is not None and state not in states:
        raise ParameterError("--state is unknown", got=repr(state)[:80], rule=", ".join(states))
    screen = Screen(as_json=json_output)
    jobs = [job for job in _party(home, key_file).jobs.all() if state in (None, job.state)]
    if not jobs:
        screen.say("No job.")
    else:
        screen.table(
            "Jobs",
            [("Asked for (UTC)", "left"), ("Job", "left"), ("What", "left"), ("By", "left"), ("Privacy", "left"),
             ("Approval", "left"), ("State", "left"), ("Sums", "right")],
            [(job.created_utc, job.id, _what(job), job.asker, _privacy(job), job.rule, _state(job), job.released)
             for job in jobs],
        )  # fmt: skip
    screen.result({"jobs": [_plain(job) for job in jobs]})


@jobs_app.command("show", epilog="Example: blindsight jobs show 5f0c --home bank-a")
@command
def show(
    job: JobArgument, home: FolderOption = Path(), key_file: KeyFileOption = None, json_output: JsonOption = False
) -> None:
    """Say all that a job asks for, beside what is left of the budget."""
    screen = Screen(as_json=json_output)
    party = _party(home, key_file)
    found = _find(party, job)
    screen.say(f"Job {found.id}, asked for by {found.asker} on {found.created_utc}: {_state(found)}")
    screen.say(f"  digest      {found.digest}")
    screen.say(f"  what        {_what(found)}")
    for name, value in ((found.detector or {}).get("parameters") or {}).items():
        screen.say(f"              {name} = {value}")
    screen.say(f"  columns     {', '.join(found.columns)}")
    screen.say(f"  with        {', '.join(found.participants)}; opened over at least {max(found.threshold, 3)}")
    screen.say(f"  privacy     {_privacy(found)}")
    budget: dict[str, Any] | None = None
    if found.privacy is not None:
        ledger = party.ledgers.get(found.privacy.unit)
        if ledger is not None and ledger.budget is not None:
            budget = {"spent": ledger.spent(), "budget": ledger.budget.epsilon, "remaining": ledger.remaining()}
            screen.say(
                f"  budget      per {found.privacy.unit}: {budget['spent']:.3f} of {budget['budget']:g} spent; "
                f"one more release of at most {budget['remaining']:.3f} fits (delta {ledger.budget.delta:g})"
            )
    else:
        screen.say("  budget      none bounds exact sums: they are releases about persons")
    screen.say(f"  approval    {found.rule}")
    for decision in found.decisions:
        said = decision.said
        screen.say(f"              {said.approver}: {said.decision} {said.note}".rstrip())
    screen.result({**_plain(found), "budget": budget})


@jobs_app.command("approve", epilog="Example: blindsight jobs approve 5f0c --as alice --key alice.key --home bank-a")
@command
def approve(
    job: JobArgument,
    home: FolderOption = Path(),
    who: AsOption = None,
    key: KeyOption = None,
    passphrase_file: PassphraseOption = None,
    note: NoteOption = "",
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Sign an approval of exactly this job; it is used once, by this run, or expires."""
    _decide("approve", job, home, who, key, passphrase_file, note, key_file, Screen(as_json=json_output))


@jobs_app.command("refuse", epilog="Example: blindsight jobs refuse 5f0c --note 'ask for person level' --home bank-a")
@command
def refuse(
    job: JobArgument,
    home: FolderOption = Path(),
    who: AsOption = None,
    key: KeyOption = None,
    passphrase_file: PassphraseOption = None,
    note: NoteOption = "",
    key_file: KeyFileOption = None,
    json_output: JsonOption = False,
) -> None:
    """Refuse a job that waits, or stop one that runs at its next message. What it has released stays released."""
    _decide("refuse", job, home, who, key, passphrase_file, note, key_file, Screen(as_json=json_output))


@jobs_app.command("key", epilog="Example: blindsight jobs key alice --output alice.key")
@command
def make_key(
    name: Annotated[str, typer.Argument(help="Of the person who will approve.")],
    output: Annotated[Path, typer.Option(help="File to write; sealed under a passphrase.")],
    passphrase_file: PassphraseOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a person's key for approvals, and print the line that the policy needs."""
    from blindsight.errors import ParameterError
    from blindsight.federation.kits import name_problem
    from blindsight.keys import Identity, Sealer

    if (problem := name_problem(name)) is not None:
        raise ParameterError("The name cannot be used", got=problem)
    writable_target(output, "--output")
    identity = Identity.generate()
    identity.save(output, Sealer.from_passphrase(passphrase_of(passphrase_file, twice=True)))
    screen = Screen(as_json=json_output)
    screen.say(f"Wrote {output}. In policy.toml of the party, under [approvers]:\n")
    line = f'{name} = "{identity.public.raw.hex()}"' if name.replace("-", "").replace("_", "").isalnum() else (
        f'"{name}" = "{identity.public.raw.hex()}"'
    )  # fmt: skip
    screen.say(f"    {line}")
    screen.result({"output": str(output), "line": line, "fingerprint": identity.public.fingerprint})


def _decide(
    decision: Literal["approve", "refuse"],
    job: str,
    home: Path,
    who: str | None,
    key: Path | None,
    passphrase_file: Path | None,
    note: str,
    key_file: Path | None,
    screen: Screen,
) -> None:
    party = _party(home, key_file)
    found = _find(party, job)
    decided = party.decide(
        found.id,
        decision,
        approver=who or getpass.getuser(),
        identity=None if key is None else identity_of(key, passphrase_file),
        note=note,
    )
    need = {"automatic": 0, "by-hand": 1, "four-eyes": 2}[decided.rule]
    have = sum(one.said.decision == "approve" for one in decided.decisions)
    told = f"{have} of {need} approvals; another person's is needed."
    if decision == "refuse":
        told = "refused."
    elif have >= need:
        told = f"{have} of {need} approvals. It goes on when the coordinator asks again."
    screen.say(f"Job {decided.id}: {told}")
    screen.result(_plain(decided))


def _party(home: Path, key_file: Path | None) -> Party:
    from blindsight.federation import open_party

    return open_party(home, key_file=key_file)


def _find(party: Party, text: str) -> Job:
    from blindsight.errors import ParameterError

    found = [job for job in party.jobs.all() if job.id == text] or [
        job for job in party.jobs.all() if text and job.id.startswith(text)
    ]
    if len(found) != 1:
        raise ParameterError(
            f"{'No' if not found else 'More than one'} job begins with '{text[:80]}'", fix="blindsight jobs list"
        )
    return found[0]


def _what(job: Job) -> str:
    return job.purpose if job.detector is None else f"{job.purpose} {job.detector.get('name')}"


def _privacy(job: Job) -> str:
    if job.privacy is None:
        return "exact sums, no differential privacy"
    terms = job.privacy
    bound = f", {terms.max_records_per_person} records each" if terms.max_records_per_person else ""
    return f"epsilon {terms.epsilon:g}, delta {terms.delta:g} per {terms.unit}{bound}"


def _state(job: Job) -> str:
    return "waits for approval" if job.state == "waits" else job.state


def _plain(job: Job) -> dict[str, Any]:
    import msgspec

    value: dict[str, Any] = msgspec.to_builtins(job)
    return {**value, "created_utc": job.created_utc}
