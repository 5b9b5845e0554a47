"""The daemon: wiring, life cycle, connections and request handlers. No other room imports this one."""
