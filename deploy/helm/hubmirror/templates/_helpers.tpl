{{- define "hubmirror.labels" -}}
app.kubernetes.io/name: {{ .Release.Name }}
{{- end }}

{{- define "hubmirror.endpoint" -}}
{{- $service := ternary (printf "%s-node" .Release.Name) .Release.Name .Values.nodeCache.enabled -}}
http://{{ $service }}.{{ .Release.Namespace }}.svc:8400
{{- end }}

{{- define "hubmirror.container" -}}
ports:
  - name: http
    containerPort: 8400
readinessProbe:
  httpGet:
    path: /readyz
    port: http
  periodSeconds: 5
livenessProbe:
  httpGet:
    path: /healthz
    port: http
  timeoutSeconds: 10
  failureThreshold: 6
{{- end }}

{{- define "hubmirror.tokenEnv" -}}
- name: HUBMIRROR_TOKEN_FILE
  value: /run/secrets/hubmirror/token
{{- end }}

{{- define "hubmirror.tokenMount" -}}
- name: token
  mountPath: /run/secrets/hubmirror
  readOnly: true
{{- end }}

{{- define "hubmirror.tokenVolume" -}}
{{- with .Values.token.existingSecret -}}
- name: token
  secret:
    secretName: {{ . }}
{{- end }}
{{- end }}

{{- define "hubmirror.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
