"""Attacks on the product, with counts: hostile files and arguments, sanitizers, kills, full disks, races, long runs.

``make test-robust`` runs all parts with fixed seeds; ``python -m robust --help`` (with ``tests`` on PYTHONPATH) has one
part at a time, and replays an input that was kept.
"""
