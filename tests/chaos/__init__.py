"""Pulling the plug: real processes, faults at random instants, and what must hold afterwards.

    clients ──▶ two replicas ──▶ proxies that cut ──▶ agents ──▶ a ledger of every effect
                     └──▶ one store, killed and started again

`python -m tests.chaos` runs it at length, `test_chaos.py` for seconds; `test_mutations.py` breaks the product on
purpose.
"""
