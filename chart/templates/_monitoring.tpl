{{/* Scraping and rules. */}}

{{/* Labels on every series, and only the series that rules and dashboards read: of the 95 of a pod about 40 stay. */}}
{{- define "trtbuild.relabelings" -}}
relabelings:
  - sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_instance]
    targetLabel: release
  - sourceLabels: [__meta_kubernetes_pod_label_trtbuild_dev_sku]
    targetLabel: sku
metricRelabelings:
  - sourceLabels: [__name__]
    regex: trtbuild_.+|nv_trt_llm_.+|nv_inference_(request_success|request_failure|request_duration_us|queue_duration_us|compute_infer_duration_us|pending_request_count|first_response_histogram_ms_.+)|nv_gpu_(utilization|memory_used_bytes|memory_total_bytes)|nv_cpu_utilization
    action: keep
{{- end }}

{{/* metadata of a monitoring object: (dict "root" $ "name" name ["labels" dict]). */}}
{{- define "trtbuild.monitoringMetadata" -}}
{{- include "trtbuild.metadata" (dict "root" .root "name" .name "component" "monitoring" "labels" .root.Values.monitoring.labels) }}
{{- end }}

{{/*
A rule file of files/rules with its selectors narrowed to this release, windows of rates of at least four scrapes and windows that keep the
last gauges of at least three: (list $ "recording.yaml"). [30s] is widened first, since [15s] may become it. Longer windows
are at least a minute, four scrapes of the longest interval that values.schema.json allows.
*/}}
{{- define "trtbuild.ruleFile" -}}
{{- $root := index . 0 }}
{{- $release := printf "namespace=%q, release=%q" $root.Release.Namespace $root.Release.Name }}
{{- $namespace := printf "namespace=%q" $root.Release.Namespace }}
{{- $interval := int $root.Values.monitoring.interval }}
{{- $rate := printf "[%ds]" (max 30 (mul 4 $interval)) }}
{{- $gauge := printf "[%ds]" (max 15 (mul 3 $interval)) }}
{{- $root.Files.Get (printf "files/rules/%s" (index . 1)) | replace "release=~\".+\"" $release | replace "namespace=~\".+\"" $namespace | replace "[30s]" $rate | replace "[15s]" $gauge }}
{{- end }}

{{/*
Capacity, in pods of weight 1, that fills before a SKU: cheaper SKUs at their most, dearer ones at their fewest pods. Cheaper is less
money per weight, then the name: (dict "root" $ "sku" sku).
*/}}
{{- define "trtbuild.capacityBefore" -}}
{{- $price := divf .sku.capacity.costPerHour .sku.capacity.weight }}
{{- $sum := 0.0 }}
{{- range $name := keys .root.Values.skus | sortAlpha }}
{{- if ne $name $.sku.name }}
{{- $other := include "trtbuild.sku" (list $.root $name) | fromJson }}
{{- $otherPrice := divf $other.capacity.costPerHour $other.capacity.weight }}
{{- $isCheaper := or (lt $otherPrice $price) (and (eq $otherPrice $price) (lt $name $.sku.name)) }}
{{- $pods := int $other.replicas }}
{{- if $other.autoscaling.enabled }}
{{- $pods = ternary (int $other.autoscaling.maxReplicas) (int $other.autoscaling.minReplicas) $isCheaper }}
{{- end }}
{{- $sum = addf $sum (mulf $other.capacity.weight $pods) }}
{{- end }}
{{- end }}
{{- $sum }}
{{- end }}

{{/* The group of a SKU's constants: (dict "root" $ "sku" sku). */}}
{{- define "trtbuild.skuConstants" -}}
{{- $root := .root }}
{{- $sku := .sku }}
{{- $text := $root.Files.Get "files/rules/sku.yaml.tpl" }}
{{- range $word, $value := dict
  "NAMESPACE" $root.Release.Namespace
  "RELEASE" $root.Release.Name
  "SKU" $sku.name
  "DEPLOYMENT" $sku.fullname
  "HPA" $sku.fullname
  "BATCHING_FACTOR" $sku.capacity.batchingFactor
  "WEIGHT" $sku.capacity.weight
  "COST_PER_HOUR" $sku.capacity.costPerHour
  "TARGET" (include "trtbuild.target" $sku.autoscaling)
  "CAPACITY_BEFORE" (include "trtbuild.capacityBefore" .)
  "INIT_BUDGET_SECONDS" (int $sku.budgets.build)
  "LOAD_BUDGET_SECONDS" (int $sku.budgets.load)
  "WARM_INIT_SECONDS" (int $sku.budgets.warmInit) }}
{{- $text = $text | replace (printf "@%s@" $word) (toString $value) }}
{{- end }}
{{- $text }}
{{- end }}
