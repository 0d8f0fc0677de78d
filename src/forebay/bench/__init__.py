"""The load generator: open loop (arrivals at set instants) and closed loop (N clients), over HTTP/1.1 keep-alive."""
