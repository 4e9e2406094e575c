"""What NVIDIA's Dynamo operator does, as far as tests of SLA Planner need it, with simulated engines in place of GPUs.

versions    v1alpha1 <-> v1beta1 of a DynamoGraphDeployment
webhook     the same over HTTPS, for the API server
graph       a v1beta1 graph as the stand-in sees it
engine      what the arguments of a worker say, and the command line of the simulated engine that takes its place
objects     the Deployments, Services and the profile that a graph becomes
status      what a graph and its adapters say of these
install     the definitions of the custom resources
controller  watches, makes, removes, tells
"""
