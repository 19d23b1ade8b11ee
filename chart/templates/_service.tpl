{{/* Ports of a Service over server pods. */}}
{{- define "trtbuild.podPorts" -}}
- name: http
  port: 8000
  targetPort: http
  appProtocol: http
- name: grpc
  port: 8001
  targetPort: grpc
  appProtocol: kubernetes.io/h2c
- name: metrics
  port: 8002
  targetPort: metrics
  appProtocol: http
{{- end }}

{{/* Labels of the one Service that a ServiceMonitor reads: the one that selects the server pods. */}}
{{- define "trtbuild.scrapeLabel" -}}
trtbuild.dev/scrape: "true"
{{- end }}
