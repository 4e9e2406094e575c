"""Upper bucket edges of a Dynamo frontend's histograms, as recorded from Dynamo 1.6.1. Seconds and tokens; the bucket to infinity is not listed."""

TTFT_S = (0, 0.0022, 0.0047, 0.01, 0.022, 0.047, 0.1, 0.22, 0.47, 1, 2.2, 4.7, 10, 22, 48, 100, 220, 480)
ITL_S = (0, 0.0018, 0.0033, 0.0059, 0.011, 0.02, 0.035, 0.064, 0.12, 0.21, 0.38, 0.69, 1.2, 2.3, 4.1, 7.4, 13, 24, 44, 80)
DURATION_S = (0, 2, 4, 8, 16, 32, 64, 130, 260, 510)
ISL_TOKENS = (0, 100, 210, 430, 870, 1800, 3600, 7400, 15000, 31000, 63000, 130000)
OSL_TOKENS = (0, 100, 210, 430, 880, 1800, 3700, 7600, 16000, 32000)
