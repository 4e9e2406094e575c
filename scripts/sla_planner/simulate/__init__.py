"""What would happen: recorded traffic on a fleet that exists only as numbers, under any scaling policy, scored.

    traffic ──> fleet (events) ──> scrapes ──> policy ──> workers ──┐
                  ▲                                                 │
                  └─────────────────────────────────────────────────┘      then: score

`events` moves requests through workers, compiled where numba is installed; `fleet` starts and drains workers; `scrape` turns what happened into what
Prometheus would have shown; a `policy` sees that and nothing else; `run` is the loop; `score` judges the requests afterwards.
"""
