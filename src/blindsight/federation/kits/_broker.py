"""The kit of an MQTT broker: what mosquitto is started with, and who may read and write which topic."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from blindsight.channels import MqttTopics

from ._list import ParticipantList
from ._names import host_of

__all__ = ["BROKER_FOLDER", "acl", "broker_readme", "brokers_of", "mosquitto_conf"]

BROKER_FOLDER = "broker"
MIB = 1 << 20
MEMORY_MIB, MEMORY_OF_PARTY_MIB = 64, 8
"""A party has at most 4 MiB on the way, half of it in each direction."""


def brokers_of(addresses: Sequence[str]) -> list[tuple[str, int]]:
    """Host and port of the brokers among a coordinator's addresses; each once, in order."""
    return list(dict.fromkeys(host_of(address) for address in addresses if address.startswith("mqtts:")))


def acl(listing: ParticipantList) -> str:
    """Write mosquitto's access list: a party writes to its own topic and reads its own, nothing else."""
    topics = MqttTopics(listing.coordinator.certificate)
    blocks = [
        f"# Made by 'blindsight init' for participant list {listing.serial} of '{listing.federation}'.\n"
        "# Names are common names of certificates. What is not allowed here is not possible.\n",
        f"user {listing.coordinator.name}\n"
        f"topic read {topics.every_up}\ntopic write {topics.down('+')}\ntopic write {topics.presence}\n",
    ]
    for party in listing.parties:
        blocks.append(
            f"user {party.name}\n"
            f"topic write {topics.up(party.name)}\ntopic read {topics.down(party.name)}\ntopic read {topics.presence}\n"
        )
    return "\n".join(blocks)


def mosquitto_conf(listing: ParticipantList) -> str:
    """Write mosquitto's settings; paths in it are relative to the folder in which it is started."""
    parties = len(listing.parties)
    ports: dict[int, str] = {}
    for host, port in brokers_of(listing.coordinator.addresses):
        ports[port] = "" if port in ports or not _loopback(host) else " 127.0.0.1"
    listeners = "".join(
        f"""
listener {port}{bind}
cafile authority.crt
certfile tls.crt
keyfile tls.key
tls_version tlsv1.3
require_certificate true
# who somebody is: the common name of its certificate; a connection under a name ends the older one under it
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file acl
max_connections {2 * (parties + 4)}
"""
        for port, bind in ports.items()
    )
    return f"""\
# mosquitto 2.0 or newer. Start it in this folder: mosquitto -c mosquitto.conf
# Started as root it becomes the user 'mosquitto', who must be able to read tls.key; or name another one:
# user somebody

per_listener_settings true
persistence false
set_tcp_nodelay true
sys_interval 0
max_keepalive 300

# A message has at most 256 KiB. Both ends bound what waits here: 8 messages of each party each way, 512 of all parties
# together for the coordinator, and as many small ones.
max_packet_size {260 << 10}
max_inflight_messages 20
max_queued_messages 4096
memory_limit {(MEMORY_MIB + MEMORY_OF_PARTY_MIB * parties) * MIB}

log_dest stderr
log_type error
log_type warning
log_type notice
{listeners}"""


def broker_readme(listing: ParticipantList) -> str:
    """Say what each file of the broker's kit is, and what to do next."""
    title = f"The broker of '{listing.federation}'"
    where = ", ".join(f"{host}:{port}" for host, port in brokers_of(listing.coordinator.addresses))
    return f"""\
{title}
{"=" * len(title)}

The MQTT broker ({where}) at which coordinator and parties meet.
Both dial it; nothing listens at either. Whoever runs it sees who is connected, when, and how long messages are. It
cannot read one, change one, or pass for anybody: party and coordinator have TLS of their own inside. It can hold up and
cut off.

mosquitto.conf    Settings: TLS 1.3, certificates on both sides, limits.
acl               Which topics each party may read and write. New with every participant list.
tls.crt, tls.key  Certificate and PRIVATE key of the broker, for its own side of TLS.
authority.crt     Certificate of the federation's authority; certificates of coordinator and parties are by it.

The coordinator's key and the federation's keys are NOT here, and do not belong here.

Start it, in this folder, as a user who may read tls.key:

    mosquitto -c mosquitto.conf

When parties come, go or change keys, put the new acl (and mosquitto.conf) here, and have mosquitto read them again:

    kill -HUP PROCESS-ID

Certificates are read when it starts. A new one for this broker: blindsight init rotate broker.
"""


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network("127.0.0.0/8")
    except ValueError:
        return host == "localhost"
