# Ask for something that is not to be had, and tell the status and the message.
kind=$(curl --silent --output body --dump-header head --write-out '%{http_code}' \
  "$HF_ENDPOINT/$1/resolve/$2/$3")
message=$(sed -n 's/^x-error-message: //Ip' head | tr -d '\r"')
printf '{"kinds": ["%s"], "message": "%s"}\n' "$kind" "$message"
