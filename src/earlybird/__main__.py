"""`python -m earlybird`, and the program `earlybird`: the command line."""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Until `main` heeds it: an end without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from earlybird.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
