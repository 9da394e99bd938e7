# Download a file over a connection that breaks: aria2 goes on by itself.
aria2c --quiet --no-conf --retry-wait=1 --out=file "$HF_ENDPOINT/$1/resolve/main/$2" || exit
printf '{"sha256": "%s"}\n' "$(sha256sum < file | cut -d ' ' -f 1)"
