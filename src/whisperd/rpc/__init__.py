"""The wire: MessagePack-RPC framing, messages, errors and transports.

Every other room may import this one; it imports no room, only the small things beside the rooms
(`child`, `paths`, `tasks`). It does no logging, keeps no state beyond one connection and knows
nothing of speech. The thin client imports `errors`, `framing` and
`transport` alone, so those three stay free of msgspec, anyio and asyncio.
"""
