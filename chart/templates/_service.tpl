{{/* Ports of a Service over server pods. */}}
{{- define "trtbuild.podPorts" -}}
{{- include "trtbuild.openaiPort" . }}
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

{{/* The port of a Service for the OpenAI API, where there is one. */}}
{{- define "trtbuild.openaiPort" -}}
{{- with int .Values.openai.port }}
- name: openai
  port: {{ . }}
  targetPort: openai
  appProtocol: http
{{- end }}
{{- end }}

{{/* Number of a port that an Ingress or HTTPRoute leads to: (list $ "openai"). */}}
{{- define "trtbuild.routePort" -}}
{{- ternary (int (index . 0).Values.openai.port) 8000 (eq (index . 1) "openai") }}
{{- end }}

{{/* Labels of the one Service that a ServiceMonitor reads: the one that selects the server pods. */}}
{{- define "trtbuild.scrapeLabel" -}}
trtbuild.dev/scrape: "true"
{{- end }}

{{/*
Ports of the hub and of the proxy to it, as JSON: HTTPS, and those that hub.endpoint and hub.proxy.https name. A URL without a port
means that of its scheme.
*/}}
{{- define "trtbuild.hubPorts" -}}
{{- $ports := list 443 }}
{{- range list .Values.hub.endpoint .Values.hub.proxy.https }}
{{- $url := toString (. | default "") }}
{{- $port := regexReplaceAll "^(?:[a-z]+://)?(?:[^/@]*@)?(?:\\[[^\\]/]*\\]|[^/:]*):([0-9]+)(?:/.*)?$" $url "${1}" }}
{{- if regexMatch "^[0-9]{1,5}$" $port }}
{{- $ports = append $ports (int $port) }}
{{- else if hasPrefix "http://" $url }}
{{- $ports = append $ports 80 }}
{{- end }}
{{- end }}
{{- toJson (uniq $ports) }}
{{- end }}

{{/* Weight of a SKU in an HTTPRoute, a whole number: capacity.weight x fewest pods, times 100: the SKU. */}}
{{- define "trtbuild.routeWeight" -}}
{{- $pods := ternary (max 1 (int .autoscaling.minReplicas)) (int .replicas) .autoscaling.enabled }}
{{- round (mulf .capacity.weight $pods 100) 0 | int64 }}
{{- end }}
