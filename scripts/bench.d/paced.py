#!/usr/bin/env python3
"""An even stream of requests to several gateways, whatever they answer (an open loop), held against the limit they share.

Prints: requests sent, passed, refused, refused wrongly, most passed within one second and its bound, the bound of all that
passed, requests without an answer.
"""
import argparse
import bisect
import select
import socket
import time


class Connection:
    """One connection that is kept, with one request on its way at most."""

    def __init__(self, port, request):
        self.port, self.request = port, request
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.sent, self.answer = 0.0, b""

    def send(self):
        self.sent, self.answer = time.monotonic(), b""
        self.socket.send(self.request)

    def receive(self):
        """The status once the answer is complete; None before."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError(f"the gateway on port {self.port} hung up")
        self.answer += data
        head, found, body = self.answer.partition(b"\r\n\r\n")
        if not found:
            return None
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return int(head[9:12]) if len(body) >= int(length) else None


class Load:
    """The stream: request number n is due at n / rate, and goes to the gateway that is furthest behind its share."""

    def __init__(self, options):
        self.options = options
        self.request = f"GET {options.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self.idle = [[] for _ in options.ports]
        self.busy, self.log, self.sent = {}, [], 0
        self.poll = select.epoll()
        self.shares = [float(share) for share in options.shares.split(",")]
        self.credit = [0.0] * len(self.shares)

    def gateway(self):
        for place, share in enumerate(self.shares):
            self.credit[place] += share
        place = max(range(len(self.credit)), key=self.credit.__getitem__)
        self.credit[place] -= sum(self.shares)
        return place

    def send(self):
        place = self.gateway()
        if self.idle[place]:
            connection = self.idle[place].pop()
        else:
            connection = Connection(self.options.ports[place], self.request)
            self.poll.register(connection.socket, select.EPOLLIN)
        self.busy[connection.socket.fileno()] = (place, connection)
        connection.send()
        self.sent += 1

    def receive(self, wait):
        for descriptor, _ in self.poll.poll(wait):
            place, connection = self.busy[descriptor]
            status = connection.receive()
            if status is not None:
                self.log.append((connection.sent, time.monotonic(), status))
                self.idle[place].append(connection)

    def run(self):
        """What was answered: (sent, answered, status) of each request."""
        start = time.monotonic()
        total = int(self.options.rate * self.options.seconds)
        while self.sent < total:
            due = start + self.sent / self.options.rate
            wait = due - time.monotonic()
            if wait <= 0:
                self.send()
                wait = 0
            self.receive(wait)
        end = time.monotonic() + 2
        while len(self.log) < self.sent and time.monotonic() < end:
            self.receive(0.01)
        return sorted(self.log)


def wrong(log, limit, burst):
    """Refusals for which an exact limit, charged with what did pass, had room.

    When a gateway decided is only known to lie between a request and its answer. Every doubt is in favour of the gateway: what
    passed was charged as late as can be, all of it that was sent before a refusal's answer was charged before, and the refusal
    was decided when it was sent, by a clock that counts whole milliseconds.
    """
    interval, empty, latest = 1 / limit, 0.0, 0.0
    sent_at, empty_at = [], [0.0]
    for sent, answered, status in log:
        if status == 200:
            latest = max(latest, answered)
            empty = max(empty, latest) + interval
            sent_at.append(sent)
            empty_at.append(empty)
    refused = [(sent, answered) for sent, answered, status in log if status != 200]
    return sum(empty_at[bisect.bisect_right(sent_at, answered)] <= sent - 0.001 + burst * interval for sent, answered in refused)


def worst_second(answers):
    """Most that certainly passed within one second: sent after it began, answered before it ended."""
    ends = sorted(answered for _, answered in answers)
    late = [answered - sent for sent, answered in answers]
    slack = max(late, default=0.0)
    worst = 0
    for place, (begin, _) in enumerate(answers):
        # Only requests sent a moment before can end in this second without having begun in it.
        early = bisect.bisect_left(answers, (begin - slack, 0.0))
        strays = sum(begin <= answered <= begin + 1 for _, answered in answers[early:place])
        inside = bisect.bisect_right(ends, begin + 1) - bisect.bisect_left(ends, begin)
        worst = max(worst, inside - strays)
    return worst


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--shares", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--burst", type=int, required=True)
    parser.add_argument("--lease", type=int, required=True, help="milliseconds; 0: none")
    parser.add_argument("ports", type=int, nargs="+")
    options = parser.parse_args()
    load = Load(options)
    log = load.run()
    answers = [(sent, answered) for sent, answered, status in log if status == 200]
    capacity = options.burst + 1
    span = max(answered for _, answered, _ in log) - log[0][0]
    ahead = options.limit * options.lease / 1000
    print(
        load.sent, len(answers), len(log) - len(answers), wrong(log, options.limit, options.burst),
        worst_second(answers), int(capacity + options.limit + ahead),
        int(capacity + options.limit * span), load.sent - len(log),
    )


main()
