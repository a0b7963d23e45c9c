"""An echo server for WebSockets with compression (permessage-deflate), by the `websockets` library.

usage: echo_deflate.py PORT
"""
import asyncio
import logging
import sys

from websockets.asyncio.server import serve

# What clients do wrong is what they are here for.
logging.getLogger("websockets").setLevel(logging.CRITICAL)


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    async with serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=None, ping_interval=None, compression="deflate"):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
