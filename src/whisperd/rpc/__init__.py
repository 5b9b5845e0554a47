"""The wire protocol: MessagePack-RPC framing, messages, errors and transports.

Every other package may import this one; it imports no package, only the top-level modules (`child`, `paths`,
`tasks`). It keeps no state beyond one connection and knows nothing of speech. The thin client imports only
`errors`, `framing` and `transport`, so these three must not import msgspec, anyio or asyncio.
"""
