"""How bytes travel. A channel knows nothing of federations: it carries requests to named parties and answers back.

Contract of every channel: ``exchange(requests, timeout_s)`` returns the answers of those who answered in time. Who
did not is absent from the result; silence is a dropout, never an exception.
"""

from ._ask import CONNECT_SECONDS, HttpAnswer, ask_http
from ._channel import MAX_MESSAGE_BYTES, Channel, Traffic
from ._contact import Contact
from ._dialled import DialledChannel
from ._flower import FlowerChannel
from ._flower_app_folder import write_flower_app
from ._flower_party import serve_flower
from ._grpc import GrpcChannel
from ._grpc_party import serve_grpc
from ._https import HttpsChannel
from ._https_party import serve_https
from ._listen import BACKLOG, listen
from ._memory import MemoryChannel
from ._mqtt import MqttChannel
from ._mqtt_party import serve_mqtt
from ._mqtt_wire import MqttTopics
from ._process import ProcessChannel, serve_frames
from ._serve import serve
from ._simulated import SimulatedChannel, SimulatedExchange, SimulatedNetwork
from ._tls import certificate_fingerprint, mutual_context, peer_fingerprint

__all__ = [
    "BACKLOG",
    "CONNECT_SECONDS",
    "MAX_MESSAGE_BYTES",
    "Channel",
    "Contact",
    "DialledChannel",
    "FlowerChannel",
    "GrpcChannel",
    "HttpAnswer",
    "HttpsChannel",
    "MemoryChannel",
    "MqttChannel",
    "MqttTopics",
    "ProcessChannel",
    "SimulatedChannel",
    "SimulatedExchange",
    "SimulatedNetwork",
    "Traffic",
    "ask_http",
    "certificate_fingerprint",
    "listen",
    "mutual_context",
    "peer_fingerprint",
    "serve",
    "serve_flower",
    "serve_frames",
    "serve_grpc",
    "serve_https",
    "serve_mqtt",
    "write_flower_app",
]
