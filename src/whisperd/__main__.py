"""`python -m whisperd` is the daemon in the foreground."""

from whisperd.daemon.main import main

if __name__ == "__main__":
    main()
