{{/* engine.yaml: every option of the pod's commands, in one place, for both containers. */}}

{{/* A map of name: value with every value as text; whole numbers stay whole (YAML numbers are floats in Helm). */}}
{{- define "trtbuild.pairs" -}}
{{- $pairs := dict }}
{{- range $name, $value := . }}
{{- if and (kindIs "float64" $value) (eq (floor $value) $value) }}
{{- $_ := set $pairs $name (toString (int64 $value)) }}
{{- else }}
{{- $_ := set $pairs $name (toString $value) }}
{{- end }}
{{- end }}
{{- toYaml $pairs }}
{{- end }}

{{- define "trtbuild.engineConfig" -}}
{{- $sku := . }}
{{- $config := dict
  "model" $sku.model.name
  "revision" (toString $sku.model.revision)
  "backend" $sku.model.backend
  "dtype" $sku.model.dtype
  "quantization" $sku.model.quantization
  "kv_cache_dtype" $sku.model.kvCacheDtype
  "tp_size" (int $sku.model.parallelism.tensor)
  "pp_size" (int $sku.model.parallelism.pipeline)
  "allow_pickle" $sku.model.allowPickle
  "trust_remote_code" $sku.model.trustRemoteCode
  "served_name" $sku.servedName
  "repository" "/var/run/trtbuild/repository/models"
  "layout" $sku.server.layout
  "decoupled" $sku.server.decoupled
  "max_queue_size" (int $sku.server.maxQueueSize)
  "enable_kv_cache_reuse" $sku.server.enableKvCacheReuse
  "enable_chunked_context" $sku.server.enableChunkedContext
  "batch_scheduler_policy" $sku.server.batchSchedulerPolicy
  "orchestrator" $sku.server.orchestrator
  "store" "/var/lib/trtbuild/store"
  "hf_cache" "/var/lib/trtbuild/hf"
  "verify" $sku.storage.verify
  "keep_checkpoint" $sku.storage.keepCheckpoint
  "host" "0.0.0.0"
  "http_port" 8000
  "grpc_port" 8001
  "metrics_port" 8002
  "drain_timeout" (int $sku.server.drainTimeout)
  "log_verbose" (int $sku.server.logVerbose) }}
{{- range $option, $value := dict
  "max_batch_size" $sku.model.limits.maxBatchSize
  "max_input_len" $sku.model.limits.maxInputLen
  "max_seq_len" $sku.model.limits.maxSeqLen
  "max_num_tokens" $sku.model.limits.maxNumTokens
  "kv_cache_tokens" $sku.model.limits.kvCacheTokens
  "store_group" $sku.storage.group }}
{{- if not (kindIs "invalid" $value) }}
{{- $_ := set $config $option (int64 $value) }}
{{- end }}
{{- end }}
{{- $_ := set $config "openai_port" (int $sku.openai.port) }}
{{- if int $sku.openai.port }}
{{- $_ := set $config "openai_max_body" $sku.openai.maxBodySize }}
{{- if $sku.openai.allowedOrigins }}
{{- $_ := set $config "openai_allowed_origin" $sku.openai.allowedOrigins }}
{{- end }}
{{- if $sku.openai.keySecret.name }}
{{- $_ := set $config "api_key_file" "/var/run/secrets/trtbuild/keys" }}
{{- end }}
{{- end }}
{{- if $sku.server.openApis }}
{{- $_ := set $config "open_api" $sku.server.openApis }}
{{- end }}
{{- if not (kindIs "invalid" $sku.server.kvCacheFreeGpuMemFraction) }}
{{- $_ := set $config "kv_cache_free_gpu_mem_fraction" $sku.server.kvCacheFreeGpuMemFraction }}
{{- end }}
{{- range $option, $text := dict "calibration" $sku.model.calibration "shared_tier" $sku.storage.sharedTier.url }}
{{- if $text }}{{ $_ := set $config $option $text }}{{ end }}
{{- end }}
{{- range $option, $map := dict "build_option" $sku.model.buildOptions "template_parameter" $sku.server.templateParameters "server_arg" $sku.server.args }}
{{- if $map }}{{ $_ := set $config $option (include "trtbuild.pairs" $map | fromYaml) }}{{ end }}
{{- end }}
{{- if not $sku.storage.engines.readOnly }}
{{- $_ := set $config "max_bytes" $sku.storage.engines.size }}
{{- $_ := set $config "min_free" $sku.storage.minFree }}
{{- end }}
{{- toYaml $config }}
{{- end }}
