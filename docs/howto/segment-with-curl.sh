#!/usr/bin/env bash
# Segment a tomogram on a CryoMamba server with curl and a stock WebSocket client alone.
#
#     segment-with-curl.sh TOMOGRAM MODEL FOLDER
#
# CRYOMAMBA_SERVER     address of the server, e.g. https://gpu7:8765
# CRYOMAMBA_TOKEN      token with the scopes jobs:read jobs:write uploads:write artifacts:read
# CRYOMAMBA_CACERT     PEM file of a certificate to trust, for a server that has made its own
#
# It may be started again after any interruption: it sends only the parts that are missing.
# Needs bash 4.4, curl 7.82, GNU coreutils, jq, openssl, and Python (PYTHON, or python3) with websocket-client.
set -euo pipefail

tomogram=${1:?which tomogram?}
model=${2:?which model?}
folder=${3:?which folder for the results?}
server=${CRYOMAMBA_SERVER:?is not set}
server=${server%/}

# Curl reads the token from a file that is ours alone: other users can see the words of a command.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf 'header = "Authorization: Bearer %s"\n' "${CRYOMAMBA_TOKEN:?is not set}" >"$work/token"

if [[ -n ${CRYOMAMBA_CACERT:-} ]]; then
    export CURL_CA_BUNDLE=$CRYOMAMBA_CACERT WEBSOCKET_CLIENT_CA_BUNDLE=$CRYOMAMBA_CACERT
fi

# What is worth a retry (the line was cut, 429, 503 …) is tried again, after the seconds in Retry-After.
patient() {
    local answer
    if answer=$(curl --silent --show-error --fail-with-body --retry 8 --retry-connrefused "$@"); then
        printf '%s' "$answer"
    else
        jq --raw-output '.error | "\(.message) [\(.code)]\n\(.hint)"' <<<"$answer" >&2 || true
        return 1
    fi
}
ask() { patient --config "$work/token" "$@"; }


# 1. Announce the file: the server may have it already, or parts of it.

name=$(basename "$tomogram")
size=$(stat --dereference --format %s "$tomogram")
sha256=$(sha256sum "$tomogram" | cut --delimiter ' ' --fields 1)
announcement=$(jq --null-input --arg filename "$name" --argjson size "$size" --arg sha256 "$sha256" \
    '{$filename, $size, $sha256, fingerprint: $sha256}')
upload=$(ask --json "$announcement" "$server/v1/uploads/init")
file_id=$(jq --raw-output '.file_id // empty' <<<"$upload")


# 2. Send the parts that are missing, in any order, each with its digest.

if [[ -z $file_id ]]; then
    upload_id=$(jq --raw-output .upload_id <<<"$upload")
    part_size=$(jq .part_size <<<"$upload")
    for index in $(jq '[range(.part_count)] - .received | .[]' <<<"$upload"); do
        echo "sending part $((index + 1)) of $(jq .part_count <<<"$upload")" >&2
        dd if="$tomogram" of="$work/part" bs="$part_size" skip="$index" count=1 status=none
        digest=$(openssl dgst -sha256 -binary "$work/part" | base64)
        ask --upload-file "$work/part" --header "Content-Digest: sha-256=:$digest:" --output /dev/null \
            "$server/v1/uploads/$upload_id/part/$index"
    done
    file_id=$(ask --request POST "$server/v1/uploads/$upload_id/complete" | jq --raw-output .file_id)
fi


# 3. Ask what the job would cost, then queue it. With the key, a request that is sent again makes no second job.

job=$(jq --null-input --arg file_id "$file_id" --arg model "$model" --arg name "$name" \
    '{source: {$file_id}, $model, "label": $name}')
ask --json "$job" "$server/v1/jobs/plan" |
    jq --raw-output '"\(.run.tiles) tiles, \(.run.ram_bytes / 1e6 | ceil) MB, \(.queue_position) jobs before it"' >&2
job_id=$(ask --json "$job" --header "Idempotency-Key: $(openssl rand -hex 16)" "$server/v1/jobs" |
    jq --raw-output .job_id)
echo "job $job_id" >&2


# 4. Follow it by WebSocket. A message has a number: after a cut, go on behind the last one.

words='fromjson? | "\(.seq) " + if .type == "state" then "is \(.state)"
        elif .type == "progress" then "\(.progress.stage), \(.progress.fraction * 100 | floor) %"
        elif .type == "preview" then "preview \(.sequence), \(.shape | map(tostring) | join(" × ")) voxels"
        elif .type == "error" then .error.message
        else .type end'

# Prints a line for each message, until the server closes the connection.
listen() {
    "${PYTHON:-python3}" -c '
import os, sys, websocket
identity = ["Authorization: Bearer " + os.environ["CRYOMAMBA_TOKEN"]]  # not in the words of a command
try:
    connection = websocket.create_connection(sys.argv[1], header=identity)
    while message := connection.recv():
        print(message, flush=True)
except (OSError, websocket.WebSocketException) as error:
    print(error, file=sys.stderr)
' "$1" | jq --raw-input --raw-output --unbuffered "$words"
}

seen=0
while true; do
    view=$(ask "$server/v1/jobs/$job_id")
    state=$(jq --raw-output .state <<<"$view")
    case $state in completed | failed | canceled) break ;; esac
    while read -r seen text; do
        echo "$text" >&2
    done < <(listen "${server/#http/ws}/v1/ws/jobs/$job_id?after=$seen")
    sleep 1
done
if [[ $state != completed ]]; then
    jq --raw-output '"\(.state): \(.error.message // "by somebody"). \(.error.hint // "")"' <<<"$view" >&2
    exit 1
fi


# 5. Fetch what it made. The addresses are signed: they need no token, and expire.

mkdir --parents "$folder"
jq --raw-output '.artifacts[] | [.name, .sha256, .url] | @tsv' <<<"$view" |
    while IFS=$'\t' read -r artifact sha256 url; do
        target="$folder/${name%.*}.$artifact"
        [[ $url == http* ]] || url=$server$url
        patient --output "$target.part" --continue-at - "$url"
        echo "$sha256  $target.part" | sha256sum --check --quiet
        mv "$target.part" "$target"
        echo "$target"
    done
