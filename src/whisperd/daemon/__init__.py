"""The daemon: wiring, life cycle, connections and request handlers. Only `library` imports this package; it
opens the service without a socket.

`main` is the program: `state` claims the state folder and `listener` the socket, `service` wires the
packages, `server` accepts each `connection`, and `methods` handle its requests and `uploads`. `bundles`,
`leasing`, `recipes`, `calibrating` and `trials` connect packages that need each other; `resuming` resumes the
jobs of the previous daemon, and `preloading` loads the default runtime; `hub` sends events to clients,
`reporting` sends the status to the service manager, and `conditions` reacts to low memory, battery power and
suspension; `metrics` counts what happens (`exposition`).
"""
