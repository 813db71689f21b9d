import asyncio
import socket

from services.kit.server import bind


async def test_connections_of_a_bound_socket_send_small_writes_at_once():
    """With plain asyncio too; uvloop does it whatever the socket says."""
    without_delay = asyncio.get_running_loop().create_future()

    class Noting(asyncio.Protocol):
        def connection_made(self, transport):
            connection = transport.get_extra_info("socket")
            without_delay.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    server = await asyncio.get_running_loop().create_server(Noting, sock=bind("127.0.0.1", 0))
    async with server:
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert await without_delay == 1, "Nagle's algorithm is on: each answer in two writes waits 40 ms"
