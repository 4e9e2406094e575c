"""The simulated engine: an OpenAI-compatible server whose latencies are a profile's, with no GPU and no model behind it.

options     what a fleet is made of, and the checks on it
timing      how long each step takes (law, noise, model error, time scale), and how well the wall clock kept to it
worker      one worker: start-up, steps against absolute deadlines, drain, faults
roles       what a step is: prefill, decode, or both in turns
fleet       queue, routing, admission, scaling; pure asyncio, no HTTP
virtual     follows the worker counts of a virtual target and acknowledges them
faults      faults on request
api, wire   what clients send, and the bytes they get back
exposition  /metrics
server      the HTTP front
serving     all of it, until a signal
"""
