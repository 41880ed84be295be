"""The engine's face on the network: HTTP, WebSocket and a status page."""
