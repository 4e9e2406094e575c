"""The simulated engine: an OpenAI-compatible server whose latencies are a profile's, with no GPU and no model behind it.

options     what an engine is made of, and the checks on it
timing      how long each step takes (law, noise, model error, time scale), and how well the wall clock kept to it
worker      one worker: start-up, steps against absolute deadlines, drain, faults
roles       what a step is: prefill, decode, or both in turns
routing     queues, and which worker gets what, wherever the workers run
fleet       workers of this process: launch and scaling
door        a worker that is a process of its own, as frontends reach it
elsewhere   workers that are processes of their own, as a frontend finds and uses them
link        what these two say to each other
places      where a frontend looks for them
virtual     follows the worker counts of a virtual target and acknowledges them
faults      faults on request
api, wire   what clients send, and the bytes they get back
exposition  /metrics
server      the OpenAI endpoints
operations  the endpoints of whoever runs an engine
serving     all of it, until a signal
"""
