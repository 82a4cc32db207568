"""`python -m earlybird`: the command line."""

import sys

from earlybird.cli.main import main

sys.exit(main())
