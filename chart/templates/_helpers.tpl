{{/* Names, labels, and the effective values of one SKU. Helpers compute; the object files only place. */}}

{{/* Chart name for labels. */}}
{{- define "trtbuild.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Beginning of every object's name, not yet cut to length. */}}
{{- define "trtbuild.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains (include "trtbuild.name" .) .Release.Name }}
{{- .Release.Name }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "trtbuild.name" .) }}
{{- end }}
{{- end }}

{{/*
base + suffix in at most 63 characters: (list base suffix). Only the base is cut, and a hash of it keeps two long bases apart.
*/}}
{{- define "trtbuild.fit" -}}
{{- $base := index . 0 }}
{{- $suffix := index . 1 }}
{{- if le (add (len $base) (len $suffix)) 63 }}
{{- printf "%s%s" $base $suffix }}
{{- else }}
{{- $room := int (sub 56 (len $suffix)) }}
{{- printf "%s-%s%s" ($base | trunc $room | trimSuffix "-") ($base | sha256sum | trunc 6) $suffix }}
{{- end }}
{{- end }}

{{/* Name of an object of the release: (list $ "-suffix"). */}}
{{- define "trtbuild.object" -}}
{{- include "trtbuild.fit" (list (include "trtbuild.fullname" (index . 0)) (index . 1)) }}
{{- end }}

{{- define "trtbuild.serviceName" -}}
{{- include "trtbuild.object" (list . "") }}
{{- end }}

{{/* Headless Service over all pods: the proxies' look-up. */}}
{{- define "trtbuild.podsServiceName" -}}
{{- include "trtbuild.object" (list . "-pods") }}
{{- end }}

{{- define "trtbuild.balancerName" -}}
{{- include "trtbuild.object" (list . "-envoy") }}
{{- end }}

{{/* Value of trtbuild.dev/service that puts a pod behind the Service. */}}
{{- define "trtbuild.group" -}}
{{- .Values.service.group | default (include "trtbuild.serviceName" .) }}
{{- end }}

{{- define "trtbuild.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "trtbuild.serviceName" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/*
Labels that select; minimal, because selectors are immutable: (dict "root" $ "component" "server" "sku" "a100"). Quoted here, since
this text is read back by fromYaml, which makes numbers and booleans of a SKU named 4090 or a release named off.
*/}}
{{- define "trtbuild.selectorLabels" -}}
app.kubernetes.io/name: {{ include "trtbuild.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- with .sku }}
trtbuild.dev/sku: {{ . | quote }}
{{- end }}
{{- end }}

{{/* All labels of an object: (dict "root" $ "component" "server" "sku" "a100"). */}}
{{- define "trtbuild.labels" -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") | trunc 63)
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/part-of" "trtbuild"
  "app.kubernetes.io/managed-by" .root.Release.Service }}
{{- $labels = mergeOverwrite $labels (.root.Values.commonLabels | default dict) (include "trtbuild.selectorLabels" . | fromYaml) }}
{{- toYaml $labels }}
{{- end }}

{{/*
Labels of pods: nothing that changes with the chart's version, so that a chart upgrade alone restarts no server:
(dict "root" $ "component" "server" "sku" sku ["labels" dict] ["service" group]).
*/}}
{{- define "trtbuild.podLabels" -}}
{{- $labels := mergeOverwrite (dict) (.root.Values.commonLabels | default dict) (.labels | default dict) }}
{{- $labels = mergeOverwrite $labels (include "trtbuild.selectorLabels" . | fromYaml) (dict "app.kubernetes.io/part-of" "trtbuild") }}
{{- $labels = omit $labels "trtbuild.dev/service" }}
{{- with .service }}
{{- $_ := set $labels "trtbuild.dev/service" . }}
{{- end }}
{{- toYaml $labels }}
{{- end }}

{{/* metadata of an object: (dict "root" $ "name" name "component" component ["sku" sku] ["labels" dict] ["annotations" dict]). */}}
{{- define "trtbuild.metadata" -}}
name: {{ .name | quote }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- mergeOverwrite (dict) (.labels | default dict) (include "trtbuild.labels" . | fromYaml) | toYaml | nindent 2 }}
{{- with mergeOverwrite (dict) (.root.Values.commonAnnotations | default dict) (.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* "true" when the cluster, or assumeApis, has an API: (list $ "keda.sh/v1alpha1"). */}}
{{- define "trtbuild.hasApi" -}}
{{- $root := index . 0 }}
{{- if or ($root.Capabilities.APIVersions.Has (index . 1)) (has (index . 1) ($root.Values.assumeApis | default list)) }}true{{ end }}
{{- end }}

{{/*
A map without its nulls, as JSON: a SKU takes a default away with null, as values files do. In a manifest null could be more than
nothing: the API server reads it as the quantity 0.
*/}}
{{- define "trtbuild.withoutNulls" -}}
{{- $kept := dict }}
{{- range $key, $value := . }}
{{- if kindIs "map" $value }}
{{- $_ := set $kept $key (include "trtbuild.withoutNulls" $value | fromJson) }}
{{- else if not (kindIs "invalid" $value) }}
{{- $_ := set $kept $key $value }}
{{- end }}
{{- end }}
{{- toJson $kept }}
{{- end }}

{{/*
Everything about one SKU as JSON: (list $ "a100"). The sections marked (per SKU) in values.yaml with the SKU's own on top, and:
name, fullname, gpus (per pod), servedName, image, openai (the same for all: one Service has one port).
*/}}
{{- define "trtbuild.sku" -}}
{{- $root := index . 0 }}
{{- $name := index . 1 }}
{{- $sku := dict }}
{{- range list "image" "model" "server" "gpu" "capacity" "replicas" "budgets" "resources" "initResources" "shm" "storage" "autoscaling" "strategy" "prewarm" "probes" "pod" "disruptionBudget" }}
{{- $_ := set $sku . (deepCopy (dict "value" (index $root.Values .))).value }}
{{- end }}
{{- $sku = mergeOverwrite $sku (deepCopy (index $root.Values.skus $name | default dict)) }}
{{- $sku = include "trtbuild.withoutNulls" $sku | fromJson }}
{{- $gpus := 0 }}
{{- if ne $sku.model.backend "cpu" }}
{{- $gpus = mul (int $sku.model.parallelism.tensor) (int $sku.model.parallelism.pipeline) }}
{{- end }}
{{- $tag := $sku.image.tag | default $root.Chart.AppVersion }}
{{- $reference := ternary (printf "%s@%s" $sku.image.repository $sku.image.digest) (printf "%s:%s" $sku.image.repository $tag) (not (empty $sku.image.digest)) }}
{{- $_ := set $sku "name" $name }}
{{- $_ := set $sku "openai" $root.Values.openai }}
{{- $_ := set $sku "fullname" (include "trtbuild.object" (list $root (printf "-%s" $name))) }}
{{- $_ := set $sku "gpus" $gpus }}
{{- $_ := set $sku "servedName" ($sku.model.servedName | default ($sku.model.name | default "" | trimSuffix "/" | splitList "/" | last)) }}
{{- $_ := set $sku "imageReference" $reference }}
{{- toJson $sku }}
{{- end }}

{{/* Seconds from "pod created" to "serves": load, and build unless engines are pre-warmed: the SKU. */}}
{{- define "trtbuild.startSeconds" -}}
{{- if .prewarm.enabled }}{{ add (int .budgets.warmInit) (int .budgets.load) }}{{ else }}{{ add (int .budgets.build) (int .budgets.load) }}{{ end }}
{{- end }}

{{/* Name of the claim of a volume: (dict "root" $ "sku" sku "volume" "engines"). */}}
{{- define "trtbuild.claimName" -}}
{{- $volume := index .sku.storage .volume }}
{{- if $volume.existingClaim }}
{{- $volume.existingClaim }}
{{- else if .sku.storage.claimPerSku }}
{{- include "trtbuild.object" (list .root (printf "-%s-%s" .sku.name .volume)) }}
{{- else }}
{{- include "trtbuild.object" (list .root (printf "-%s" .volume)) }}
{{- end }}
{{- end }}

{{/* "true" when engines and models share one claim, which is then mounted once above both: the SKU. */}}
{{- define "trtbuild.isOneClaim" -}}
{{- if and (eq .storage.engines.type "persistentVolumeClaim") (eq .storage.models.type "persistentVolumeClaim") .storage.engines.existingClaim (eq .storage.engines.existingClaim .storage.models.existingClaim) }}true{{ end }}
{{- end }}
