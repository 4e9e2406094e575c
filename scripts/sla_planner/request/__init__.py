"""Deployment requests: one custom resource (DynamoGraphDeploymentRequest) from an SLA to a serving, planned model.

    read      object -> Request                          alpha.py, beta.py: both versions, every error with its path
    step      Request + Seen -> Step(actions, status)    lifecycle.py: what to do next, from facts alone
    make      Request + picks -> objects                 profiling_job.py, generated.py: the Job, the ConfigMaps, the DynamoGraphDeployment

Nothing here talks to a cluster, reads a clock or keeps a memory: a stage looks (`Seen`), calls, and carries out.
"""
