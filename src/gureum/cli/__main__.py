"""`python -m gureum.cli`: what the launcher runs."""

import sys

from gureum.cli.main import main

sys.exit(main())
