{{/* The autoscaler of a SKU: which series, which target, how fast. */}}

{{/* Target in the metric's unit: autoscaling. */}}
{{- define "trtbuild.target" -}}
{{- $defaults := dict "demand" 0.8 "demand-by-cost" 0.8 "queue-compute" 1 "waiting" 5 "gpu-utilization" 80 "kv-cache" 0.8 "cpu" 80 }}
{{- if kindIs "invalid" .target }}{{ index $defaults .metric }}{{ else }}{{ .target }}{{ end }}
{{- end }}

{{/* Series of the custom metrics API (chart/monitoring/prometheus-adapter.yaml offers them): autoscaling. */}}
{{- define "trtbuild.series" -}}
{{- index (dict
  "demand" "triton:demand:ratio"
  "demand-by-cost" "triton:demand_by_cost:ratio"
  "queue-compute" "triton:queue_compute:ratio"
  "waiting" "triton:waiting:requests"
  "gpu-utilization" "dcgm_gpu_utilization_percent"
  "kv-cache" "trtllm_kv_cache_used_ratio") .metric }}
{{- end }}

{{/* The whole SKU's demand as one number for KEDA: (dict "root" $ "sku" sku). */}}
{{- define "trtbuild.kedaQuery" -}}
{{- $sku := .sku }}
{{- $scope := printf "namespace=%q,release=%q,sku=%q" .root.Release.Namespace .root.Release.Name $sku.name }}
{{- $pods := printf "namespace=%q,pod=~\"%s-[a-z0-9]+-[a-z0-9]+\"" .root.Release.Namespace $sku.fullname }}
{{- if eq $sku.autoscaling.metric "demand" }}
{{- printf "sum(triton:sku_demand:pods{%s})" $scope }}
{{- else if eq $sku.autoscaling.metric "gpu-utilization" }}
{{- printf "sum(avg by (exported_pod) (DCGM_FI_DEV_GPU_UTIL{exported_%s}))" ($pods | replace ",pod" ",exported_pod") }}
{{- else if eq $sku.autoscaling.metric "kv-cache" }}
{{- printf "sum(max by (pod) (nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\",%s}))" $scope }}
{{- else }}
{{- printf "sum(%s{%s})" (include "trtbuild.series" $sku.autoscaling) $scope }}
{{- end }}
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
