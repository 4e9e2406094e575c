"""How many workers: state + observation + settings -> decision + state. Pure: no I/O, no clock, no log, no hidden randomness."""
