# Start a model with OpenLLM from the mirror at HF_ENDPOINT, ask it once, and stop it.
#
# usage: start_once.sh PYTHON DATA MODEL READY_URL ASK_URL
set -eu
python=$1 data=$2 model=$3 ready=$4 ask=$5
scripts=$(dirname "$0")
eval "$("$python" -m mirror openllm env "$HF_ENDPOINT" "$model" --data "$data")"
unset PYTHONPATH
openllm repo update
setsid openllm serve "$model" --port 3456 &
server=$!
trap 'kill -s TERM -- -$server; wait $server || true' EXIT
"$python" -I "$scripts/ask.py" 300 "$ready" > /dev/null
"$python" -I "$scripts/ask.py" 60 "$ask" '{}'
