"""gRPC servers for t/health_check_grpc.t: one with health checking, one with it over TLS, one without it.

    grpc-backend.py DIR HEALTH TLS BARE

The last three are ports of 127.0.0.1. DIR has backend.crt and backend.key, and a file for each service that is known,
`service-NAME` ("service-" for the server as a whole), whose text is a number, its status. Each check is a line in DIR/checks.
"""

import pathlib
import sys
from concurrent import futures

import grpc

directory = pathlib.Path(sys.argv[1])


def check(request, context):
    """HealthCheckRequest { string service = 1 } -> HealthCheckResponse { ServingStatus status = 1 }, of less than 128 bytes."""
    service = request[2:].decode() if request else ""
    sent = dict(context.invocation_metadata())
    words = [service or "-", context.peer(), "%.1f" % context.time_remaining(), sent.get("user-agent"), sent.get("x-probe", "-")]
    with open(directory / "checks", "a") as log:
        print(*words, sep="\t", file=log)
    try:
        return bytes([8, int((directory / f"service-{service}").read_text())])
    except FileNotFoundError:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")


def server(*handlers):
    made = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    made.add_generic_rpc_handlers(handlers)
    return made


health = grpc.method_handlers_generic_handler(
    "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
)
plain, secure, bare = server(health), server(health), server()
pair = tuple((directory / name).read_bytes() for name in ("backend.key", "backend.crt"))
plain.add_insecure_port(f"127.0.0.1:{sys.argv[2]}")
secure.add_secure_port(f"127.0.0.1:{sys.argv[3]}", grpc.ssl_server_credentials([pair]))
bare.add_insecure_port(f"127.0.0.1:{sys.argv[4]}")
for each in (plain, secure, bare):
    each.start()
(directory / "ready").touch()
plain.wait_for_termination()
