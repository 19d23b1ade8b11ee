{{/* The autoscaler of a SKU: which series, which target, how fast. */}}

{{/* Target in the metric's unit: autoscaling. */}}
{{- define "trtbuild.target" -}}
{{- $defaults := dict "demand" 0.8 "demand-by-cost" 0.8 "queue-compute" 1 "waiting" 5 "gpu-utilization" 80 "kv-cache" 0.8 "cpu" 80 }}
{{- if kindIs "invalid" .target }}{{ index $defaults .metric }}{{ else }}{{ .target }}{{ end }}
{{- end }}

{{/* Series of the custom metrics API (chart/monitoring/prometheus-adapter.yaml offers them): autoscaling. */}}
{{- define "trtbuild.series" -}}
{{- get (dict
  "demand" "triton:demand:ratio"
  "demand-by-cost" "triton:demand_by_cost:ratio"
  "queue-compute" "triton:queue_compute:ratio"
  "waiting" "triton:waiting:requests"
  "gpu-utilization" "dcgm_gpu_utilization_percent"
  "kv-cache" "trtllm_kv_cache_used_ratio") .metric }}
{{- end }}

{{/* Why the chart itself gives an autoscaler nothing to read, and what to do; empty when it does: (list $ sku). */}}
{{- define "trtbuild.signalGap" -}}
{{- $root := index . 0 }}
{{- $scaling := (index . 1).autoscaling }}
{{- $monitoring := $root.Values.monitoring }}
{{- $isRecorded := hasPrefix "triton:" (include "trtbuild.series" $scaling) }}
{{- if and $scaling.enabled $isRecorded (not $monitoring.rules.enabled) }}
{{- printf "reads the series %s, and monitoring.rules.enabled is false: record it by rules of your own (chart/files/rules), or turn the rules on." (include "trtbuild.series" $scaling) }}
{{- else if and $scaling.enabled (or $isRecorded (eq $scaling.metric "kv-cache")) (eq $monitoring.scrape "none") }}
{{- printf "is scraped from the pods, and monitoring.scrape is none: let another object scrape them with the labels sku and release (the ServiceMonitor of the release that owns the Service does), or set monitoring.scrape PodMonitor." }}
{{- end }}
{{- end }}

{{/*
The whole SKU's load as one number for KEDA: (dict "root" $ "sku" sku). The sum over its pods, and pods that are not seen now count
like the mean of the others, since an External metric has no protection against a lost scrape. Such a pod was seen within the last
minute (one that is new and not scraped yet carries no load) and is ready (one that was removed carries none either): the smaller
of both numbers. Without kube-state-metrics scalar() is NaN, which ">= 0" drops, and the plain sum is left. No pod gives no answer.
*/}}
{{- define "trtbuild.kedaQuery" -}}
{{- $sku := .sku }}
{{- $namespace := .root.Release.Namespace }}
{{- $scope := printf "namespace=%q,release=%q,sku=%q" $namespace .root.Release.Name $sku.name }}
{{- $ready := printf "max(kube_deployment_status_replicas_ready{namespace=%q,deployment=%q})" $namespace $sku.fullname }}
{{- $pod := "pod" }}
{{- $series := "" }}
{{- if eq $sku.autoscaling.metric "gpu-utilization" }}
{{- $pod = "exported_pod" }}
{{- $series = printf "DCGM_FI_DEV_GPU_UTIL{exported_namespace=%q,exported_pod=~\"%s-[a-z0-9]+-[a-z0-9]+\"}" $namespace $sku.fullname }}
{{- else if eq $sku.autoscaling.metric "kv-cache" }}
{{- $series = printf "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\",%s}" $scope }}
{{- else }}
{{- $series = printf "%s{%s}" (include "trtbuild.series" $sku.autoscaling) $scope }}
{{- end }}
{{- $now := printf "avg by (%s) (%s)" $pod $series }}
{{- $seen := printf "count(count by (%s) (last_over_time(%s[1m])))" $pod $series }}
{{- printf "sum(%s) * clamp_min(clamp_max(%s, scalar(%s)) / count(%s), 1) >= 0 or sum(%s)" $now $seen $ready $now $now }}
{{- end }}

{{/* behavior of the HorizontalPodAutoscaler: sku. */}}
{{- define "trtbuild.behavior" -}}
{{- if .autoscaling.behavior }}
{{- toYaml .autoscaling.behavior }}
{{- else }}
{{- $window := .autoscaling.scaleDownWindow }}
{{- if kindIs "invalid" $window }}
{{- $window = min 3600 (max 600 (div (mul 3 (int (include "trtbuild.startSeconds" .))) 2)) }}
{{- end -}}
# Up at once, doubling or four pods: a queue does not wait.
scaleUp:
  stabilizationWindowSeconds: 0
  selectPolicy: Max
  policies:
    - type: Pods
      value: 4
      periodSeconds: 15
    - type: Percent
      value: 100
      periodSeconds: 15
# Down slowly: 1.5 x start-up, or pods that are still building are the first to go.
scaleDown:
  stabilizationWindowSeconds: {{ int $window }}
  selectPolicy: Max
  policies:
    - type: Pods
      value: 1
      periodSeconds: 60
    - type: Percent
      value: 10
      periodSeconds: 60
{{- end }}
{{- end }}
