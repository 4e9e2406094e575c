"""A server with the two pages that readiness asks for, what it says on them and when it ends as arguments; standard library only, for speed.

small_engine.py PORT [--health STATUS] [--models NAME,NAME | --models-status STATUS] [--metrics TEXT] [--say TEXT] [--pid-file FILE]
                     [--die-at-start CODE] [--crash-on PATH] [--ignore-term] [--child FILE] [--escaped-child FILE]
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

STUBBORN = """
import os, pathlib, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
print(flush=True)
signal.pause()
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--health", type=int, default=200)
    parser.add_argument("--models", default="small")
    parser.add_argument("--models-status", type=int, default=200)
    parser.add_argument("--metrics", default="")
    parser.add_argument("--say", default="")
    parser.add_argument("--pid-file")
    parser.add_argument("--die-at-start", type=int)
    parser.add_argument("--crash-on")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--child")
    parser.add_argument("--escaped-child")
    options = parser.parse_args()
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.say:
        print(options.say, file=sys.stderr, flush=True)
    for file, own_session in ((options.child, False), (options.escaped_child, True)):
        if file:
            child = subprocess.Popen([sys.executable, "-I", "-S", "-c", STUBBORN, file], stdout=subprocess.PIPE, start_new_session=own_session)
            assert child.stdout is not None
            child.stdout.readline()
    if options.pid_file:
        Path(options.pid_file).write_text(str(os.getpid()))
    if options.die_at_start is not None:
        if options.die_at_start < 0:
            os.kill(os.getpid(), -options.die_at_start)
        sys.exit(options.die_at_start)
    serve(options)


def serve(options: argparse.Namespace) -> None:
    models = json.dumps({"data": [{"id": name} for name in options.models.split(",") if name]})
    answers = {"/health": (options.health, ""), "/v1/models": (options.models_status, models)}
    if options.metrics:
        answers["/metrics"] = (200, options.metrics)
    with socket.create_server(("127.0.0.1", options.port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                words = connection.recv(65536).split()
                path = words[1].decode() if len(words) > 1 else ""
                if path == options.crash_on:
                    print("RuntimeError: the last words of the engine", file=sys.stderr, flush=True)
                    sys.exit(7)
                status, body = answers.get(path, (404, ""))
                connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())


if __name__ == "__main__":
    main()
