"""Train a recipe once a fold (training.fit.folds)."""

import sys

from training.fit.folds import main

if __name__ == '__main__':
    sys.exit(main())
