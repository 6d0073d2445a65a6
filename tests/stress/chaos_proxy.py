#!/usr/bin/env python3
"""A TCP proxy that does to connections what bad networks do, by chance from a seed.

    with ChaosProxy("127.0.0.1:8033", "corrupt", seed=7) as proxy:
        Client(proxy.address) ...

or, for any client, until Ctrl-C:

    python3 tests/stress/chaos_proxy.py 127.0.0.1:8033 --fault mixed --seed 7 --listen 127.0.0.1:9033

A fault befalls each direction of a connection at byte offsets that are drawn anew after every time:

    none      forwards
    delay     waits up to 0.1 s before it goes on
    split     forwards the next few hundred bytes in writes of 1 to 7 bytes
    corrupt   flips one bit
    stall     forwards nothing more in this direction, for as long as the connection lasts
    silence   accepts the connection and forwards nothing at all (of a share SILENT of them)
    reset     ends the connection with RST
    close     ends the connection with FIN, in the middle of whatever passes
    half      ends one direction with FIN; the other stays open
    mixed     each time another one of these

Bytes of a direction up to its first fault are those that were sent, in order; so are all but the flipped ones later.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import struct
import threading
from collections import Counter

FAULTS = ("none", "delay", "split", "corrupt", "stall", "silence", "reset", "close", "half")
ENDING = ("stall", "reset", "close", "half")  # of a direction
MEAN_GAP = 3000  # bytes from one fault to the next, on average
SILENT = 0.5
LONGEST_DELAY = 0.1
SPLIT_BYTES = 400
READ = 16384


class _Connection:
    """Both directions of one; `corrupted` once a bit was flipped."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.corrupted = False

    def reset(self) -> None:
        for writer in self.writers:
            peer = writer.get_extra_info("socket")
            if peer is not None:
                try:  # no lingering: RST in place of FIN
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                except OSError:
                    pass
            writer.transport.abort()

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


class ChaosProxy:
    """Runs in a thread of its own while it is entered. `upstream`: host:port. Attributes may be read at any time."""

    def __init__(self, upstream: str, fault: str = "mixed", seed: int = 0, listen: str = "127.0.0.1:0",
                 mean_gap: int = MEAN_GAP) -> None:
        if fault not in FAULTS + ("mixed",):
            raise ValueError(f"fault: expected one of {', '.join(FAULTS)}, mixed; got {fault!r}")
        self.fault = fault
        self.counts: Counter[str] = Counter()  # faults by kind
        self.connections = 0  # accepted
        self.address = ""
        self._upstream = upstream
        self._seed = seed
        self._listen = listen
        self._mean_gap = mean_gap
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def corrupted_now(self) -> bool:
        """Whether a bit was flipped on a connection that is open."""
        return any(connection.corrupted for connection in list(self._open))

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # of the start
            self._failed = error
            self._ready.set()
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        host, port = self._listen.rsplit(":", 1)
        server = await asyncio.start_server(self._accept, host, int(port), limit=READ)
        self.address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
        self._ready.set()
        await self._stop.wait()
        server.close()
        for connection in list(self._open):
            for task in connection.tasks:
                task.cancel()
            connection.reset()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        connection = _Connection()
        connection.writers.append(client_out)
        self._open.add(connection)
        try:
            chance = random.Random(f"{self._seed} {number}")
            if self.fault in ("silence", "mixed") and chance.random() < (SILENT if self.fault == "silence" else 0.1):
                self.counts["silence"] += 1
                while await client_in.read(READ):
                    pass
                return
            host, port = self._upstream.rsplit(":", 1)
            server_in, server_out = await asyncio.open_connection(host, int(port), limit=READ)
            connection.writers.append(server_out)
            for writer in connection.writers:
                writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.tasks = [
                asyncio.create_task(self._forward(connection, source, sink, random.Random(f"{self._seed} {number} {way}")))
                for way, source, sink in (("up", client_in, server_out), ("down", server_in, client_out))]
            await asyncio.gather(*connection.tasks)
        except (ConnectionError, OSError, asyncio.CancelledError):
            pass
        finally:
            for task in connection.tasks:
                task.cancel()
            connection.close()
            self._open.discard(connection)

    def _next_fault(self, chance: random.Random) -> tuple[str, int]:
        """What comes next, and after how many bytes."""
        fault = self.fault
        if fault == "mixed":
            # What ends a connection is rarer, so that the rest has its turn.
            fault = chance.choice(["delay", "split", "corrupt"] * 3 + list(ENDING))
        if fault in ("none", "silence"):
            return "none", 1 << 62
        return fault, 1 + int(chance.expovariate(1 / self._mean_gap))

    async def _forward(self, connection: _Connection, source: asyncio.StreamReader, sink: asyncio.StreamWriter,
                       chance: random.Random) -> None:
        fault, left = self._next_fault(chance)
        while data := await source.read(READ):
            while data:
                part, data = data[:left], data[left:]
                sink.write(part)
                await sink.drain()
                left -= len(part)
                if left > 0:
                    break
                self.counts[fault] += 1
                if fault in ENDING:
                    await self._end(fault, connection, source, sink)
                    return
                data = await self._disturb(fault, connection, data or await source.read(READ), sink, chance)
                fault, left = self._next_fault(chance)
        # The peer has ended its side; the other side may still have something to say.
        if sink.can_write_eof():
            sink.write_eof()

    async def _disturb(self, fault: str, connection: _Connection, data: bytes, sink: asyncio.StreamWriter,
                       chance: random.Random) -> bytes:
        """Does it to the next bytes; returns those that are still to be sent."""
        if fault == "delay":
            await asyncio.sleep(chance.uniform(0, LONGEST_DELAY))
        elif fault == "corrupt" and data:
            connection.corrupted = True
            data = bytes([data[0] ^ (1 << chance.randrange(8))]) + data[1:]
        elif fault == "split":
            head, data = data[:SPLIT_BYTES], data[SPLIT_BYTES:]
            while head:
                size = chance.randrange(1, 8)
                sink.write(head[:size])
                await sink.drain()
                await asyncio.sleep(0)
                head = head[size:]
        return data

    async def _end(self, fault: str, connection: _Connection, source: asyncio.StreamReader,
                   sink: asyncio.StreamWriter) -> None:
        if fault == "reset":
            connection.reset()
        elif fault == "close":
            connection.close()
        elif fault == "half":
            sink.write_eof()
        while fault in ("stall", "half") and await source.read(READ):  # into nothing
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", help="host:port of the server")
    parser.add_argument("--fault", default="mixed", choices=FAULTS + ("mixed",))
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 20), help="default: by chance; printed")
    parser.add_argument("--listen", default="127.0.0.1:9033", help="host:port")
    parser.add_argument("--mean-gap", type=int, default=MEAN_GAP, help="bytes from one fault to the next, on average")
    arguments = parser.parse_args()
    with ChaosProxy(arguments.upstream, arguments.fault, arguments.seed, arguments.listen, arguments.mean_gap) as proxy:
        print(f"{proxy.address} -> {arguments.upstream}: {arguments.fault}, --seed {arguments.seed}; Ctrl-C ends it", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass
        print(f"{proxy.connections} connections; " + ", ".join(f"{n} {what}" for what, n in sorted(proxy.counts.items())))


if __name__ == "__main__":
    main()
