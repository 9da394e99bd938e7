# Download one file, and tell its digest.
curl --fail --silent --show-error --output file ${HF_TOKEN:+--oauth2-bearer "$HF_TOKEN"} \
  "$HF_ENDPOINT/$1/resolve/$2/$3" || exit
printf '{"sha256": "%s"}\n' "$(sha256sum < file | cut -d ' ' -f 1)"
