"""The daemon: wiring, life cycle, connections and request handlers. No other room imports this one but
`library`, which opens its service without a socket.

`main` is the program: `state` claims the folder, `listener` the socket, `service` wires the rooms, `server`
takes each `connection`, and `methods` answer what it asks. What one room needs of the others is in
`preparing`, `leasing`, `recipes`, `calibrating` and `trials`; `resuming` goes on with the jobs of the daemon
before, `hub` tells clients what happens, `reporting` the service manager, and `conditions` acts when memory
is short, on battery and after sleep.
"""
