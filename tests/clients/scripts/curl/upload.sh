# Try to upload a file, and tell the status and the message.
kind=$(echo new | curl --silent --output body --dump-header head --write-out '%{http_code}' \
  --upload-file - "$HF_ENDPOINT/$1/resolve/main/new.txt")
message=$(sed -n 's/^x-error-message: //Ip' head | tr -d '\r"')
printf '{"kinds": ["%s"], "message": "%s"}\n' "$kind" "$message"
