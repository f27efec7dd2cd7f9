"""Limits of one client: what it holds and shares takes nothing from others."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

pytest.importorskip("spu", reason="the extra 'mpc' is not installed")

from blind._models import table_model
from blindsight.blind._budget import MemoryTable
from blindsight.blind.mpc import NodeConfig, program_of
from blindsight.blind.mpc._config import OperatorEntry
from blindsight.blind.mpc._http import MAX_HELD_BYTES, MAX_HELD_OF_ONE, PEER_KEY, _Bodies
from blindsight.blind.mpc._offer import MpcOffer
from blindsight.blind.mpc._operator import MAX_MODELS, Operator
from blindsight.blind.mpc._shares import split
from blindsight.blind.mpc._wire import ModelHeader
from blindsight.errors import UnavailableError


def test_a_holder_evicts_its_own_models_only(tmp_path: Path) -> None:
    model = table_model(2, 4)
    program, values = program_of(model)
    offer = MpcOffer(program=program, inputs=model.encoder_, schema={}, score_scale=0.5, secret=True).encode()
    pieces = [offer, *(split(program, a, v)[1] for a, v in zip(program.secrets(), values, strict=True))]
    operators = [OperatorEntry(address=f"h:{i}", link=f"h:1{i}", certificate="x") for i in range(3)]
    config = NodeConfig(rank=1, operators=operators, clients=[], private_key="x", folder=str(tmp_path))

    async def go() -> tuple[str, str]:
        operator = Operator(config, MemoryTable(), [], lambda event: None)
        try:
            operator.share_model("vendor", ModelHeader(name="fraud", id="f" * 32), pieces)
            for i in range(MAX_MODELS + 1):
                operator.share_model("rival", ModelHeader(name=f"m{i}", id=f"{i:032x}"), pieces)
            names = [f"m{i}" for i in range(MAX_MODELS + 1)]
            kept = [name for name in names if any(m.name == name for m in operator._models.values())]
            assert kept == names[1:]
            return operator.offer_of("fraud")[0], operator.offer_of(names[-1])[0]
        finally:
            await operator.close()

    assert asyncio.run(go()) == ("f" * 32, f"{MAX_MODELS:032x}")


def body(who: str, length: int) -> Request:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(b"content-length", str(length).encode())]
    return Request({"type": "http", "headers": headers, PEER_KEY: who}, receive)


def test_bodies_are_held_to_the_end_and_of_each_client_apart() -> None:
    async def go() -> None:
        bodies = _Bodies()
        async with bodies.hold(body("a", MAX_HELD_OF_ONE)):
            with pytest.raises(UnavailableError):  # a is still held though it was read
                async with bodies.hold(body("a", 1)):
                    pass
            async with bodies.hold(body("b", MAX_HELD_BYTES - MAX_HELD_OF_ONE)):
                with pytest.raises(UnavailableError):
                    async with bodies.hold(body("c", 1)):
                        pass
        async with bodies.hold(body("a", MAX_HELD_OF_ONE)):
            pass

    asyncio.run(go())
