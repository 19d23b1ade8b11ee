{{/* Contradictions that a schema cannot see. Every message says what was found and what to write instead. */}}

{{/* Keys that Helm dropped because they were set to null, and that have no meaning without a value. */}}
{{- define "trtbuild.validateNulls" -}}
{{- $keys := include "trtbuild.keys" . | fromJson }}
{{- range $path := keys $keys | sortAlpha }}
{{- $value := $.Values }}
{{- range splitList "." $path }}
{{- $value = index $value . }}
{{- end }}
{{- if kindIs "invalid" $value }}
{{- $default := get $keys $path }}
{{- fail (printf "%s is null, which takes its %s away; leave it out to keep %s" $path (ternary "keys" "default" (eq $default "")) (ternary "their defaults" $default (eq $default ""))) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "trtbuild.validate" -}}
{{- include "trtbuild.validateNulls" . }}
{{- if not .Values.skus }}
{{- fail "skus is empty: name at least one, e.g. --set 'skus.a100.gpu.products={NVIDIA-A100-SXM4-80GB}', or --set skus.cpu.model.backend=cpu on a cluster without GPUs" }}
{{- end }}
{{- $gpuSkus := list }}
{{- $first := dict }}
{{- range $name := keys .Values.skus | sortAlpha }}
{{- $sku := include "trtbuild.sku" (list $ $name) | fromJson }}
{{- include "trtbuild.validateSku" (list $ $name $sku) }}
{{- if not $first }}
{{- $first = $sku }}
{{- else if ne $sku.servedName $first.servedName }}
{{- fail (printf "skus.%s serves %s and skus.%s serves %s behind one Service, which sends a request to any pod; set the same model.servedName for both, or make two releases" $first.name $first.servedName $name $sku.servedName) }}
{{- end }}
{{- if $sku.gpus }}
{{- $gpuSkus = append $gpuSkus $sku }}
{{- end }}
{{- end }}
{{- range $gpuSkus }}
{{- if and (gt (len $gpuSkus) 1) (not .gpu.products) }}
{{- fail (printf "skus.%s.gpu.products is empty while the release has %d GPU SKUs, so its pods could land on any GPU: list the values of the node label %s (kubectl get nodes -L %s)" .name (len $gpuSkus) .gpu.productLabel .gpu.productLabel) }}
{{- end }}
{{- end }}
{{- include "trtbuild.validateOpenai" . }}
{{- include "trtbuild.validateTraffic" . }}
{{- end }}

{{/* (list $ name sku) */}}
{{- define "trtbuild.validateSku" -}}
{{- $root := index . 0 }}
{{- $at := printf "skus.%s" (index . 1) }}
{{- $sku := index . 2 }}
{{- if or (has $sku.name (list "pods" "envoy" "engines" "models")) (hasPrefix "dashboard-" $sku.name) }}
{{- fail (printf "%s: this name is taken by an object of the chart; use another, e.g. %s" $at (ternary (trimPrefix "dashboard-" $sku.name) (printf "%s-gpu" $sku.name) (hasPrefix "dashboard-" $sku.name))) }}
{{- end }}
{{- if not $sku.model.name }}
{{- fail (printf "%s: model.name is empty; set a catalog alias or a Hugging Face id, e.g. --set model.name=llama-3-8b" $at) }}
{{- end }}
{{- if not $sku.image.repository }}
{{- fail (printf "%s: image.repository is empty; build containerfiles/server.containerfile, push it, and set image.repository and image.tag" $at) }}
{{- end }}
{{- if and (eq $sku.image.tag "latest") (not $sku.image.digest) }}
{{- fail (printf "%s: image.tag is \"latest\", which means another image tomorrow; set a version, or image.digest" $at) }}
{{- end }}
{{- range $option := list "http-restricted-api" "grpc-restricted-protocol" }}
{{- range $api := splitList "," (first (splitList ":" (toString (get ($sku.server.args | default dict) $option)))) }}
{{- if has (trim $api) $sku.server.openApis }}
{{- fail (printf "%s: server.openApis opens %s, which server.args.%s restricts; leave it out of one of them" $at (trim $api) $option) }}
{{- end }}
{{- end }}
{{- end }}
{{- include "trtbuild.validateModel" (list $at $sku) }}
{{- include "trtbuild.validateEnv" (list $root $at $sku) }}
{{- include "trtbuild.validateGpus" (list $at $sku) }}
{{- include "trtbuild.validateStorage" (list $root $at $sku) }}
{{- include "trtbuild.validateScaling" (list $root $at $sku) }}
{{- if and $root.Values.monitoring.rules.enabled (eq $root.Values.monitoring.rules.source "upstream-ensemble") (ne $sku.server.layout "full") }}
{{- fail (printf "%s: monitoring.rules.source is upstream-ensemble, which counts requests in the models preprocessing and ensemble, but server.layout is %s, which serves neither, so that the demand would always be 0; set server.layout full, or monitoring.rules.source front" $at $sku.server.layout) }}
{{- end }}
{{- if and (eq (toString $sku.strategy.maxSurge | trimSuffix "%" | int) 0) (eq (toString $sku.strategy.maxUnavailable | trimSuffix "%" | int) 0) }}
{{- fail (printf "%s: strategy.maxSurge and strategy.maxUnavailable are both 0, so no upgrade can begin; set maxSurge 1 (a GPU is free) or maxUnavailable 1 (all are taken)" $at) }}
{{- end }}
{{- end }}

{{/* (list at sku) */}}
{{- define "trtbuild.validateModel" -}}
{{- $at := index . 0 }}
{{- $model := (index . 1).model }}
{{- $longest := $model.limits.maxSeqLen }}
{{- $input := $model.limits.maxInputLen }}
{{- if and $longest $input (le (int64 $longest) (int64 $input)) }}
{{- fail (printf "%s: model.limits.maxSeqLen %d counts the prompt and what is generated, so it must be more than maxInputLen %d; raise it, or leave it null" $at (int64 $longest) (int64 $input)) }}
{{- end }}
{{- if eq $model.backend "cpu" }}
{{- if not (has $model.quantization (list "none" "int8-weight-only" "int4-weight-only")) }}
{{- fail (printf "%s: model.quantization is %s, but model.backend cpu has none, int8-weight-only and int4-weight-only; set one of them there" $at $model.quantization) }}
{{- end }}
{{- if not (has $model.kvCacheDtype (list "auto" "int8")) }}
{{- fail (printf "%s: model.kvCacheDtype is %s, but model.backend cpu has auto and int8; set one of them there" $at $model.kvCacheDtype) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A name that comes twice is refused by server-side apply, and one of both values would be lost: (list $ at sku). */}}
{{- define "trtbuild.validateEnv" -}}
{{- $root := index . 0 }}
{{- $at := index . 1 }}
{{- $sku := index . 2 }}
{{- $remedies := dict "HOME" "" "TRTBUILD_IMAGE" "" }}
{{- if $root.Values.hub.offline }}{{ $_ := set $remedies "HF_HUB_OFFLINE" "hub.offline" }}{{ end }}
{{- if $root.Values.hub.endpoint }}{{ $_ := set $remedies "HF_ENDPOINT" "hub.endpoint" }}{{ end }}
{{- if $root.Values.hub.caBundle.configMap }}{{ $_ := set $remedies "SSL_CERT_FILE" "hub.caBundle" }}{{ end }}
{{- if $root.Values.hub.proxy.https }}{{ $_ := set $remedies "HTTPS_PROXY" "hub.proxy.https" }}{{ end }}
{{- if $root.Values.hub.proxy.noProxy }}{{ $_ := set $remedies "NO_PROXY" "hub.proxy.noProxy" }}{{ end }}
{{- if $sku.model.tokenSecret.name }}{{ $_ := set $remedies "HF_TOKEN_PATH" "model.tokenSecret" }}{{ end }}
{{- $seen := dict }}
{{- range $sku.pod.env }}
{{- if hasKey $remedies .name }}
{{- $value := get $remedies .name }}
{{- fail (printf "%s: pod.env sets %s, which the chart sets too%s; remove it from pod.env" $at .name (ternary "" (printf ", from %s" $value) (eq $value ""))) }}
{{- end }}
{{- if hasKey $seen .name }}
{{- fail (printf "%s: pod.env sets %s twice; keep one" $at .name) }}
{{- end }}
{{- $_ := set $seen .name true }}
{{- end }}
{{- end }}

{{/* (list at sku) */}}
{{- define "trtbuild.validateGpus" -}}
{{- $at := index . 0 }}
{{- $sku := index . 1 }}
{{- $tensor := int $sku.model.parallelism.tensor }}
{{- $pipeline := int $sku.model.parallelism.pipeline }}
{{- if eq $sku.model.backend "cpu" }}
{{- if or $sku.gpu.products (and (not (kindIs "invalid" $sku.gpu.count)) (gt (int $sku.gpu.count) 0)) }}
{{- fail (printf "%s: model.backend is cpu, but GPUs are asked for; remove gpu.products and gpu.count there (gpu: {products: []}), or set another backend" $at) }}
{{- end }}
{{- if gt (mul $tensor $pipeline) 1 }}
{{- fail (printf "%s: model.backend is cpu, which has one rank, but parallelism is %d x %d; set model.parallelism to {tensor: 1, pipeline: 1} there" $at $tensor $pipeline) }}
{{- end }}
{{- else if and (not (kindIs "invalid" $sku.gpu.count)) (ne (int $sku.gpu.count) (int $sku.gpus)) }}
{{- fail (printf "%s: gpu.count is %d, but tensor %d x pipeline %d needs %d GPUs; leave gpu.count null, or change model.parallelism" $at (int $sku.gpu.count) $tensor $pipeline (int $sku.gpus)) }}
{{- end }}
{{- end }}

{{/* (list $ at sku) */}}
{{- define "trtbuild.validateStorage" -}}
{{- $root := index . 0 }}
{{- $at := index . 1 }}
{{- $sku := index . 2 }}
{{- $most := max 1 (ternary (int $sku.autoscaling.maxReplicas) (int $sku.replicas) $sku.autoscaling.enabled) }}
{{- $isShared := or (gt $most 1) (and (gt (len $root.Values.skus) 1) (not $sku.storage.claimPerSku)) }}
{{- range $volume := list "engines" "models" }}
{{- $storage := index $sku.storage $volume }}
{{- if and (eq $storage.type "persistentVolumeClaim") (not $storage.existingClaim) }}
{{- if $storage.readOnly }}
{{- fail (printf "%s: storage.%s.readOnly needs a claim that is filled already; set storage.%s.existingClaim" $at $volume $volume) }}
{{- end }}
{{- if and $isShared (not (has "ReadWriteMany" $storage.accessModes)) }}
{{- fail (printf "%s: storage.%s.accessModes %s cannot be mounted by several pods; use [ReadWriteMany], or one replica with storage.claimPerSku" $at $volume (toJson $storage.accessModes)) }}
{{- end }}
{{- end }}
{{- end }}
{{- $engines := $sku.storage.engines }}
{{- $models := $sku.storage.models }}
{{- if and (eq $engines.type "hostPath") (eq $models.type "hostPath") (eq (clean $engines.path) (clean $models.path)) }}
{{- fail (printf "%s: storage.engines.path and storage.models.path are both %s; give each a directory of its own" $at $engines.path) }}
{{- end }}
{{- range $volume := list "engines" "models" }}
{{- $storage := index $sku.storage $volume }}
{{- if and (eq $storage.type "hostPath") (has (clean $storage.path) (list "/" "/bin" "/boot" "/dev" "/etc" "/home" "/lib" "/lib64" "/media" "/mnt" "/opt" "/proc" "/root" "/run" "/sbin" "/srv" "/sys" "/tmp" "/usr" "/var" "/var/lib" "/var/lib/docker" "/var/lib/containerd" "/var/lib/kubelet" "/var/log" "/var/run")) }}
{{- fail (printf "%s: storage.%s.path is %s, a directory of the node's system, which prepare-host-path would give to uid 10001; name one below it, e.g. /var/lib/trtbuild/%s" $at $volume $storage.path $volume) }}
{{- end }}
{{- end }}
{{- $tier := $sku.storage.sharedTier.url | default "" }}
{{- if $root.Values.hub.offline }}
{{- if and (eq $engines.type "emptyDir") (eq $models.type "emptyDir") (not $tier) (not (hasPrefix "/" $sku.model.name)) }}
{{- fail (printf "%s: hub.offline, but storage.engines and storage.models are both an emptyDir, so every pod starts with neither engine nor model; use a volume that is filled already, or a storage.sharedTier" $at) }}
{{- end }}
{{- if and (contains "://" $tier) $root.Values.networkPolicy.enabled (not $root.Values.networkPolicy.egress) }}
{{- fail (printf "%s: hub.offline closes HTTPS in the network policy, and storage.sharedTier.url is %s; let it out by a rule of networkPolicy.egress, e.g. {ports: [{port: 443}]}" $at $tier) }}
{{- end }}
{{- end }}
{{- if and $root.Values.openshift $sku.storage.prepareHostPath (or (eq $sku.storage.engines.type "hostPath") (eq $sku.storage.models.type "hostPath")) }}
{{- fail (printf "%s: openshift gives pods a user of its own, so hostPath directories cannot be prepared for it; set storage.engines.type and storage.models.type to persistentVolumeClaim" $at) }}
{{- end }}
{{- if and $sku.prewarm.enabled (or (eq $sku.storage.engines.type "emptyDir") $sku.storage.engines.readOnly) }}
{{- fail (printf "%s: prewarm.enabled fills storage.engines, which is %s; use hostPath or a persistentVolumeClaim, or turn prewarm off" $at (ternary "read-only" "an emptyDir" $sku.storage.engines.readOnly)) }}
{{- end }}
{{- end }}

{{/* (list $ at sku) */}}
{{- define "trtbuild.validateScaling" -}}
{{- $root := index . 0 }}
{{- $at := index . 1 }}
{{- $sku := index . 2 }}
{{- $scaling := $sku.autoscaling }}
{{- if $scaling.enabled }}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
{{- fail (printf "%s: autoscaling.minReplicas %d is more than autoscaling.maxReplicas %d; swap or raise them" $at (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
{{- end }}
{{- /* KEDA takes a query without a result for an error, and goes to 0 or stays there on errors (kedacore/keda issues 965, 7239, 7411). */}}
{{- if eq (int $scaling.minReplicas) 0 }}
{{- fail (printf "%s: autoscaling.minReplicas is 0, but every signal is measured in the pods: without one no request is counted, and neither a HorizontalPodAutoscaler nor KEDA would start the first pod again; set 1 (or autoscaling.enabled false and replicas 0 to stop the SKU)" $at) }}
{{- end }}
{{- if and (eq $scaling.type "keda") (not (include "trtbuild.hasApi" (list $root "keda.sh/v1alpha1"))) }}
{{- fail (printf "%s: autoscaling.type is keda, but the cluster has no keda.sh/v1alpha1; install KEDA, or set assumeApis={keda.sh/v1alpha1} when rendering without a cluster" $at) }}
{{- end }}
{{- if and (not $sku.gpus) (has $scaling.metric (list "gpu-utilization" "kv-cache")) }}
{{- fail (printf "%s: autoscaling.metric %s is a figure of GPUs, and this SKU has none; use demand or cpu there" $at $scaling.metric) }}
{{- end }}
{{- if and (eq $scaling.metric "kv-cache") (ne $sku.model.backend "tensorrt_llm") }}
{{- fail (printf "%s: autoscaling.metric is kv-cache, but model.backend is %s: llmapi does not tell how full its cache is (the gauge stays 0, and nothing scales); set model.backend tensorrt_llm, or autoscaling.metric demand" $at $sku.model.backend) }}
{{- end }}
{{- include "trtbuild.validateTarget" (list $at $scaling) }}
{{- if and (eq $scaling.metric "cpu") (not (dig "requests" "cpu" "" ($sku.resources | default dict))) }}
{{- fail (printf "%s: autoscaling.metric is cpu, a share of resources.requests.cpu, which is not set; set it" $at) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
A target that the metric can never reach, or that the API writes as 0, scales nothing: (list at autoscaling). 4.5 is where the rules
cut demand off (files/rules).
*/}}
{{- define "trtbuild.validateTarget" -}}
{{- $at := index . 0 }}
{{- $scaling := index . 1 }}
{{- $target := include "trtbuild.target" $scaling | float64 }}
{{- $range := get (dict
  "demand" (list 0.01 4.4)
  "demand-by-cost" (list 0.01 4.4)
  "queue-compute" (list 0.01 1000)
  "waiting" (list 0.01 100000)
  "gpu-utilization" (list 1 100)
  "kv-cache" (list 0.01 1)
  "cpu" (list 1 1000)) $scaling.metric }}
{{- if or (lt $target (float64 (index $range 0))) (gt $target (float64 (index $range 1))) }}
{{- fail (printf "%s: autoscaling.target %v is no %s per pod, which goes from %v to %v; the default is %s (autoscaling.target null)" $at $target $scaling.metric (index $range 0) (index $range 1) (include "trtbuild.target" (dict "metric" $scaling.metric "target" nil))) }}
{{- end }}
{{- end }}

{{- define "trtbuild.validateOpenai" -}}
{{- $port := int .Values.openai.port }}
{{- $taken := dict "8000" "Triton's HTTP port" "8001" "Triton's gRPC port" "8002" "Triton's metrics port" "9901" "Envoy's admin port" "9902" "Envoy's statistics port" }}
{{- with get $taken (toString $port) }}
{{- fail (printf "openai.port is %d, %s; use another, e.g. 8080, or 0 for none" $port .) }}
{{- end }}
{{- if not $port }}
{{- if .Values.openai.keySecret.name }}
{{- fail "openai.keySecret.name is set, but openai.port is 0, and Triton's own ports know no keys; set openai.port 8080, or remove the Secret's name" }}
{{- end }}
{{- range $name, $route := dict "ingress" .Values.ingress "httpRoute" .Values.httpRoute }}
{{- if and $route.enabled (eq $route.port "openai") }}
{{- fail (printf "%s.port is openai, but openai.port is 0; set openai.port 8080, or %s.port http for Triton's own HTTP" $name $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "trtbuild.validateTraffic" -}}
{{- if and .Values.service.create (not (regexMatch "^[a-z]" (include "trtbuild.serviceName" .))) }}
{{- fail (printf "the Service would be named %s, and names of Services begin with a letter; set fullnameOverride, e.g. llm-%s" (include "trtbuild.serviceName" .) (include "trtbuild.serviceName" .)) }}
{{- end }}
{{- if not .Values.service.create }}
{{- if not .Values.service.group }}
{{- fail "service.create is false, so service.group must name the Service to join: the full name of the other release (kubectl get service -l app.kubernetes.io/name=trtbuild)" }}
{{- end }}
{{- $needs := list }}
{{- if .Values.ingress.enabled }}{{ $needs = append $needs "ingress.enabled" }}{{ end }}
{{- if .Values.httpRoute.enabled }}{{ $needs = append $needs "httpRoute.enabled" }}{{ end }}
{{- if ne .Values.balancing.type "kube-proxy" }}{{ $needs = append $needs (printf "balancing.type %s" .Values.balancing.type) }}{{ end }}
{{- if eq .Values.monitoring.scrape "ServiceMonitor" }}{{ $needs = append $needs "monitoring.scrape ServiceMonitor" }}{{ end }}
{{- with $needs }}
{{- fail (printf "service.create is false, but %s needs a Service of this release; set it in the release that owns the Service" (join " and " .)) }}
{{- end }}
{{- end }}
{{- if eq .Values.balancing.type "gateway" }}
{{- range $name := keys .Values.skus | sortAlpha }}
{{- $sku := include "trtbuild.sku" (list $ $name) | fromJson }}
{{- $weight := include "trtbuild.routeWeight" $sku | int64 }}
{{- $pods := ternary (int $sku.autoscaling.minReplicas) (int $sku.replicas) $sku.autoscaling.enabled }}
{{- if and $pods (or (lt $weight 1) (gt $weight 1000000)) }}
{{- fail (printf "skus.%s: capacity.weight %v makes the weight %d of a route, which goes from 1 to 1000000; give the SKUs weights between 0.01 and 100, such as 1 and 2.5" $name $sku.capacity.weight $weight) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq .Values.balancing.type "gateway") (not .Values.httpRoute.enabled) }}
{{- fail "balancing.type is gateway, but httpRoute.enabled is false; enable it and set httpRoute.parentRefs, or choose envoy or kube-proxy" }}
{{- end }}
{{- if .Values.httpRoute.enabled }}
{{- if not .Values.httpRoute.parentRefs }}
{{- fail "httpRoute.parentRefs is empty; name the Gateway, e.g. --set 'httpRoute.parentRefs[0].name=public'" }}
{{- end }}
{{- if not (include "trtbuild.hasApi" (list . "gateway.networking.k8s.io/v1")) }}
{{- fail "httpRoute.enabled, but the cluster has no gateway.networking.k8s.io/v1; install the Gateway API, or set assumeApis={gateway.networking.k8s.io/v1} when rendering without a cluster" }}
{{- end }}
{{- end }}
{{- end }}
