# Defaults of the variables in jobs/*/*job.yaml. Source it before envsubst; what is set already stays:
#   . jobs/env.sh && envsubst < jobs/profile-sweep/job.yaml | kubectl apply -f -

export NAMESPACE="${NAMESPACE:-}"  # empty: the namespace that kubectl is set to
export PVC_NAME="${PVC_NAME:-dynamo-pvc}"

export DOCKER_IMAGE="${DOCKER_IMAGE:-}"  # profile-sweep refuses an empty one: set it
export DGD_CONFIG_FILE="${DGD_CONFIG_FILE:-/data/configs/disagg.yaml}"

export GRAPH_DEPLOYMENT="${GRAPH_DEPLOYMENT:-vllm-disagg-planner}"
export PROMETHEUS_ENDPOINT="${PROMETHEUS_ENDPOINT:-http://prometheus-kube-prometheus-prometheus.monitoring:9090}"

export PLANNER_IMAGE="${PLANNER_IMAGE:-sla-planner/planner:0.1.0}"
export PROFILER_IMAGE="${PROFILER_IMAGE:-sla-planner/profile-sweep:0.1.0}"
export VOLUME_TOOLS_IMAGE="${VOLUME_TOOLS_IMAGE:-sla-planner/volume-tools:0.1.0}"
