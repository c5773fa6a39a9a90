"""Messages between two processes over pipes: a line of JSON, then as many bytes as it announces."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


class Channel:
    """One end, the owner of its two file descriptors. OSError or EOFError: the other end is gone."""

    def __init__(self, incoming: int, outgoing: int):
        self.incoming, self.outgoing = open(incoming, "rb"), open(outgoing, "wb")

    def send(self, message: Mapping[str, Any], data: bytes = b"") -> None:
        self.outgoing.write(json.dumps({**message, "bytes": len(data)}).encode() + b"\n")
        self.outgoing.write(data)
        self.outgoing.flush()

    def receive(self) -> tuple[dict[str, Any], bytes]:
        line = self.incoming.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        message = json.loads(line)
        data = self.incoming.read(message["bytes"])
        if len(data) < message["bytes"]:
            raise EOFError
        return message, data

    def close(self) -> None:
        for file in (self.incoming, self.outgoing):
            with suppress(OSError):  # a message that nobody will read
                file.close()
