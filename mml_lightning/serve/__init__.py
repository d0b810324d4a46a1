"""`mml serve`: a local page and a JSON endpoint for the networks of a run.

`http_server.py` speaks HTTP and knows no network; `service.py` gives each video its turn; `worker.py` is the process
that has the networks, and can be stopped; `analysis.py` runs there, on a `Predictor`.
"""
