"""Execute a notebook and write it with its outputs: python tests/run_notebook.py IN OUT.

A process of its own, since the client of a kernel leaves sockets open; and a pipe instead of a port, since ports may be
taken by somebody else between choosing and using them.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient


async def execute(client: NotebookClient) -> None:
    """Execute all cells; on a busy machine the client misses that a reply has come unless it is made to look again."""
    running = asyncio.ensure_future(client.async_execute())
    while not (await asyncio.wait([running], timeout=1.0))[0]:
        if client.kc is not None and client.kc.channels_running:
            await asyncio.gather(*(each.socket.poll(1) for each in (client.kc.shell_channel, client.kc.iopub_channel)))
    running.result()


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    book = nbformat.read(source, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/k")
        asyncio.run(execute(NotebookClient(book, km=manager, timeout=120)))
        nbformat.write(book, target)
        manager.provisioner.process.kill()
        manager.provisioner.process.wait()
