# A node with one pod, run as process 1 of namespaces of its own. $1 holds the program and etc/, $2 is the MTA. It prints lines of name=value.
set -eu
folder=$1 mta=$2
pod=10.244.0.2

say() { printf '%s=%s\n' "$1" "$2"; }

# Asks a condition until it holds.
until_so() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt 400 ] || { echo "waited in vain for: $*" >&2; exit 1; }
        sleep 0.05
    done
}

# The pod's network, which something has to keep while its containers come and go.
unshare --net sleep 600 &
pause=$!
apart() { [ "$(readlink /proc/self/ns/net)" != "$(readlink "/proc/$pause/ns/net")" ]; }
until_so apart
inside() { nsenter --net="/proc/$pause/ns/net" "$@"; }
ip link set lo up
ip link add node type veth peer name eth0 netns "$pause"
ip address add 10.244.0.1/24 dev node
ip link set node up
inside ip link set lo up
inside ip address add "$pod/24" dev eth0
inside ip link set eth0 up

# The status of an answer; 000 where there is none.
status() { curl --silent --max-time 10 --output /dev/null --write-out '%{http_code}' "$@" || true; }
inject() { status --data '{}' "$@" "http://$pod:8080/api/inject/v1"; }
scott() { inject --user scott:tiger; }
probed() {
    printf '%s' "$PROBES" | while read -r name port path; do
        say "$1: $name" "$(status "http://$pod:$port$path")"
    done
}

# Without rights, in the pod's network; what `exec` leaves is the process itself.
gatepost() {
    nsenter --net="/proc/$pause/ns/net" setpriv $AS --no-new-privs --inh-caps=-all --bounding-set=-all \
        "$folder/gatepost" run --config "$folder/etc/gatepost.yaml" 2>>"$complaints" &
    gate=$!
    started() { [ "$(status "http://$pod:9090/readyz")" = 200 ]; }
    until_so started
}

log=$(mktemp) complaints=$(mktemp)
trap 'cat "$complaints" >&2; rm -f "$complaints" "$log"' EXIT
gatepost
probed 'before the MTA'
nsenter --net="/proc/$pause/ns/net" python3 -u "$mta" >"$log" &
api=$!
reached() { [ "$(status "http://$pod:8080/api/check-liveness/v1")" = 200 ]; }
until_so reached
probed 'with the MTA'

say scott "$(scott)"
say 'a wrong password' "$(inject --user scott:lion)"
say nobody "$(inject)"
say 'a forged identity' "$(inject --user scott:tiger --header 'X-Http-Auth: root' --header 'x_http_auth: root')"
say 'another path' "$(status "http://$pod:8080/api/admin/bounce/v1")"
around=0
curl --silent --max-time 10 --header 'X-Http-Auth: root' --data '{}' "http://$pod:8000/api/inject/v1" || around=$?
say 'around the gate' "$around"
say metrics "$(status "http://$pod:9090/metrics")"
say 'metrics with the token' "$(status --header "Authorization: Bearer $TOKEN" "http://$pod:9090/metrics")"
say 'a reload' "$(status --request POST "http://$pod:9090/reload")"
say user "$(sed -n 's/^Uid:\t\([0-9]*\).*/\1/p' "/proc/$gate/status")"

# Killed with connections open, and started anew by the kubelet: the same ports.
kill -KILL "$gate"
wait "$gate" || true
gatepost
probed killed
say 'killed: scott' "$(scott)"

# The end: the MTA first, and only then does a sidecar get SIGTERM.
kill "$api"
wait "$api" || true
say 'at the end: scott' "$(scott)"
begin=$(date +%s.%N)
kill -TERM "$gate"
code=0
wait "$gate" || code=$?
say 'gatepost ends with' "$code"
say 'gatepost ends within' "$(echo "$begin $(date +%s.%N)" | awk '{ printf "%.2f", $2 - $1 }')"
say 'the MTA was told' "$(sed -n 's/^identity=//p' "$log" | grep -v '^-$' | tr '\n' ' ' | sed 's/ $//')"
kill "$pause"
