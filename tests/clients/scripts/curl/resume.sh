# Download a file over a connection that breaks, and go on with the part that is there.
url=$HF_ENDPOINT/$1/resolve/main/$2
curl --fail --silent --output file "$url" ||
  curl --fail --silent --show-error --continue-at - --output file "$url" || exit
printf '{"sha256": "%s"}\n' "$(sha256sum < file | cut -d ' ' -f 1)"
