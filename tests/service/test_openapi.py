"""The service against its own description: Schemathesis finds nothing, with and without a credential."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BINARY_BODIES = "positive_data_acceptance"
"""Not asked for: no description tells which bytes are a sealed request, so well-described bytes are refused too."""


def schemathesis(running, *more: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("st")
    if not program.exists():
        pytest.skip("Schemathesis is not installed")
    return subprocess.run(
        [str(program), "run", f"{running.url}/openapi.json", "--tls-verify", str(running.certificate),
         "--exclude-checks", BINARY_BODIES, "--max-examples", "8",
         "--generation-deterministic", "--no-color", "--workers", "1", "--request-timeout", "30", *more],
        capture_output=True, text=True, timeout=280, check=False, cwd=running.home,
    )  # fmt: skip


@pytest.mark.parametrize("scopes", [("score", "register", "metrics", "admin"), None], ids=["everything", "nothing"])
def test_schemathesis_finds_nothing(running, scopes):
    more = []
    if scopes is not None:
        more = ["--header", f"Authorization: Bearer {running.token('fuzzer', scopes=scopes)}"]
    done = schemathesis(running, *more)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "operations" in done.stdout.lower()
    crashes = [line for line in running.log_lines() if line.get("event") == "crash"]
    assert crashes == []


def test_the_description_is_whole(running):
    with running.http() as http:
        described = http.get("/openapi.json").json()
    assert described["openapi"].startswith("3.")
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert operation["description"], path
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"], (path, status)
            if path not in ("/healthz", "/readyz"):
                assert operation["security"] == [{"HTTPBearer": []}]
    assert "HTTPValidationError" not in described["components"]["schemas"]
