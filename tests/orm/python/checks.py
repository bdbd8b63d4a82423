"""Says of each thing that a recipe shows whether it held. The program's status is 1 unless all did."""

import sys

failed = []


def check(what, holds):
    print(f"{'ok' if holds else 'not ok'} - {what}", flush=True)
    if not holds:
        failed.append(what)


def finish():
    sys.exit(1 if failed else 0)
