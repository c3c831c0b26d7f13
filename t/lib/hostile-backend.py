"""Servers that answer in every way but the right one, and in every right way, for t/health_check_hostile.t.

    hostile-backend.py DIR KIND=PORT...

Each KIND listens on its PORT of 127.0.0.1 and serves one connection at a time. `slow` adds a line to DIR/slow for each request,
with the time, and the word overlap if another connection was already waiting.
"""

import pathlib
import select
import socket
import struct
import sys
import threading
import time

directory = pathlib.Path(sys.argv[1])
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
WELL = b'{"status":"healthy"}'


def forever(connection, piece, pause=0.0):
    while True:
        connection.sendall(piece)
        time.sleep(pause)


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def slow(connection):
    time.sleep(0.35)
    waiting, _, _ = select.select([listeners["slow"]], [], [], 0)
    with open(directory / "slow", "a") as log:
        print(f"{time.monotonic():.3f}", "overlap" if waiting else "alone", file=log)
    connection.sendall(OK + b"Content-Length: 20\r\n\r\n" + WELL)


def said(*pieces):
    return lambda connection: connection.sendall(b"".join(pieces))


def body_of_ones(connection):
    connection.sendall(OK + b"\r\n")
    forever(connection, b"1" * 65536)


def headers_without_end(connection):
    connection.sendall(OK)
    forever(connection, b"X-More: and more\r\n" * 64)


KINDS = {
    "length": said(OK, b"Content-Length: 20\r\n\r\n", WELL),
    "chunked": said(OK, b"Transfer-Encoding: chunked\r\n\r\n", b'a;x=y\r\n{"status":\r\na\r\n"healthy"}\r\n0\r\nT: t\r\n\r\n'),
    "nolength": said(OK, b"\r\n", WELL),
    "http10": said(b"HTTP/1.0 200\r\n\r\n", WELL),
    "continue": said(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK, b"Content-Length: 20\r\n\r\n", WELL),
    "garbage": said(b"\x00\xff\x1b[31m garbage\r\n\r\n"),
    "gzip": said(OK, b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"),
    "short": said(OK, b"Content-Length: 200\r\n\r\n", WELL),
    "silence": said(),
    "reset": reset,
    "hang": lambda connection: forever(connection, b"", 0.05) if not connection.recv(1) else None,
    "drip": lambda connection: (connection.sendall(OK + b"X-More: "), forever(connection, b"a", 0.05)),
    "headers": headers_without_end,
    "body": body_of_ones,
    "interim": lambda connection: forever(connection, b"HTTP/1.1 100 Continue\r\n\r\n" * 64),
    "slow": slow,
}


def serve(kind, listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.settimeout(5)
                connection.recv(65536)
                KINDS[kind](connection)
            except OSError:
                pass


listeners = {}
for word in sys.argv[2:]:
    kind, port = word.split("=")
    listeners[kind] = socket.create_server(("127.0.0.1", int(port)))
    threading.Thread(target=serve, args=(kind, listeners[kind]), daemon=True).start()
(directory / "ready").touch()
threading.Event().wait()
