"""Weight the members of an ensemble (training.ensembles.fit_weights)."""

import sys

from training.ensembles.fit_weights import main

if __name__ == '__main__':
    sys.exit(main())
