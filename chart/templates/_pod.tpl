{{/* The pod of a SKU, for the Deployment and the pre-warm Job. */}}

{{/* requests and limits with the pod's GPUs: (dict "sku" sku "resources" resources). GPUs go to init containers as well, so that an
engine is built on the SKU that serves it. */}}
{{- define "trtbuild.resources" -}}
{{- $resources := deepCopy (.resources | default dict) }}
{{- if .sku.gpus }}
{{- $_ := set $resources "limits" (mergeOverwrite (dict) ($resources.limits | default dict) (dict .sku.gpu.resourceName (int .sku.gpus))) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "trtbuild.podSecurityContext" -}}
runAsNonRoot: true
{{- if not .Values.openshift }}
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "trtbuild.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Directories below which all writing happens; the root file system is read-only: (dict "root" $ "sku" sku). */}}
{{- define "trtbuild.volumeMounts" -}}
- name: config
  mountPath: /etc/trtbuild
  readOnly: true
- name: tmp
  mountPath: /tmp
- name: run
  mountPath: /var/run/trtbuild
- name: shm
  mountPath: /dev/shm
{{- if include "trtbuild.isOneClaim" .sku }}
- name: engines
  mountPath: /var/lib/trtbuild
  {{- if .sku.storage.engines.readOnly }}
  readOnly: true
  {{- end }}
{{- else }}
- name: engines
  mountPath: /var/lib/trtbuild/store
  {{- if .sku.storage.engines.readOnly }}
  readOnly: true
  {{- end }}
- name: models
  mountPath: /var/lib/trtbuild/hf
  {{- if .sku.storage.models.readOnly }}
  readOnly: true
  {{- end }}
{{- end }}
{{- with .sku.pod.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* One storage volume: (dict "root" $ "sku" sku "volume" "engines"). */}}
{{- define "trtbuild.storageVolume" -}}
{{- $volume := index .sku.storage .volume }}
- name: {{ .volume }}
{{- if eq $volume.type "hostPath" }}
  hostPath:
    path: {{ $volume.path | quote }}
    type: DirectoryOrCreate
{{- else if eq $volume.type "persistentVolumeClaim" }}
  persistentVolumeClaim:
    claimName: {{ include "trtbuild.claimName" . | quote }}
    {{- if $volume.readOnly }}
    readOnly: true
    {{- end }}
{{- else }}
  emptyDir:
    sizeLimit: {{ $volume.size | quote }}
{{- end }}
{{- end }}

{{/* "true" when clients of the OpenAI port must send a key: the SKU. */}}
{{- define "trtbuild.hasKeys" -}}
{{- if and (int .openai.port) .openai.keySecret.name }}true{{ end }}
{{- end }}

{{/* The volume of those keys: the SKU. A file, not a variable: it changes with the Secret, and no child process inherits it. */}}
{{- define "trtbuild.keysVolume" -}}
secret:
  secretName: {{ .openai.keySecret.name | quote }}
  defaultMode: 0440
  items:
    - key: {{ .openai.keySecret.key | quote }}
      path: keys
{{- end }}

{{/* (dict "root" $ "sku" sku) */}}
{{- define "trtbuild.volumes" -}}
- name: config
  configMap:
    name: {{ .sku.fullname | quote }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
# The Triton model repository: small files that point into the store.
- name: run
  emptyDir:
    sizeLimit: 1Gi
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .sku.shm.size | quote }}
{{ include "trtbuild.storageVolume" (dict "root" .root "sku" .sku "volume" "engines") | trim }}
{{- if not (include "trtbuild.isOneClaim" .sku) }}
{{ include "trtbuild.storageVolume" (dict "root" .root "sku" .sku "volume" "models") | trim }}
{{- end }}
{{- with .sku.model.tokenSecret.name }}
- name: hf-token
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    items:
      - key: {{ $.sku.model.tokenSecret.key | quote }}
        path: token
{{- end }}
{{- if include "trtbuild.hasKeys" .sku }}
- name: keys
  {{- include "trtbuild.keysVolume" .sku | nindent 2 }}
{{- end }}
{{- with .root.Values.hub.caBundle.configMap }}
- name: ca
  configMap:
    name: {{ . | quote }}
    items:
      - key: {{ $.root.Values.hub.caBundle.key | quote }}
        path: ca.crt
{{- end }}
{{- with .sku.pod.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Environment of both containers. */}}
{{- define "trtbuild.env" -}}
- name: HOME
  value: /tmp
{{- with .sku.pod.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Gives the hostPath directories that the kubelet made for root to the server's user; not recursive, no other capability. */}}
{{- define "trtbuild.prepareContainer" -}}
{{- $mounts := list }}
{{- range list (dict "name" "engines" "path" "/var/lib/trtbuild/store") (dict "name" "models" "path" "/var/lib/trtbuild/hf") }}
{{- if eq (index $.sku.storage .name).type "hostPath" }}
{{- $mounts = append $mounts . }}
{{- end }}
{{- end }}
- name: prepare-host-path
  image: {{ .sku.imageReference | quote }}
  imagePullPolicy: {{ .sku.image.pullPolicy }}
  command:
    - chown
    - {{ printf "10001:%d" (int ($.sku.storage.group | default 10001)) | quote }}
    {{- range $mounts }}
    - {{ .path }}
    {{- end }}
  securityContext:
    runAsNonRoot: false
    runAsUser: 0
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
      add: [CHOWN]
  resources:
    requests:
      cpu: 10m
      memory: 16Mi
    limits:
      memory: 64Mi
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    {{- range $mounts }}
    - name: {{ .name }}
      mountPath: {{ .path }}
    {{- end }}
{{- end }}

{{/* Downloads and builds, or finds, the engine and writes the model repository. The token is here and nowhere else. */}}
{{- define "trtbuild.initContainer" -}}
- name: init
  image: {{ .sku.imageReference | quote }}
  imagePullPolicy: {{ .sku.image.pullPolicy }}
  command: [trtbuild, init, --config, /etc/trtbuild/engine.yaml]
  env:
    {{- include "trtbuild.env" . | nindent 4 }}
    # Recorded in the manifest of the engine that is built here.
    - name: TRTBUILD_IMAGE
      value: {{ .sku.imageReference | quote }}
    {{- if .root.Values.hub.offline }}
    - name: HF_HUB_OFFLINE
      value: "1"
    {{- end }}
    {{- with .root.Values.hub.endpoint }}
    - name: HF_ENDPOINT
      value: {{ . | quote }}
    {{- end }}
    {{- if .root.Values.hub.caBundle.configMap }}
    - name: SSL_CERT_FILE
      value: /etc/trtbuild-ca/ca.crt
    {{- end }}
    {{- with .root.Values.hub.proxy.https }}
    - name: HTTPS_PROXY
      value: {{ . | quote }}
    {{- end }}
    {{- with .root.Values.hub.proxy.noProxy }}
    - name: NO_PROXY
      value: {{ . | quote }}
    {{- end }}
    {{- if .sku.model.tokenSecret.name }}
    - name: HF_TOKEN_PATH
      value: /var/run/secrets/huggingface/token
    {{- end }}
  {{- with .sku.storage.sharedTier.secretName }}
  envFrom:
    - secretRef:
        name: {{ . | quote }}
  {{- end }}
  resources:
    {{- include "trtbuild.resources" (dict "sku" .sku "resources" .sku.initResources) | nindent 4 }}
  securityContext:
    {{- include "trtbuild.containerSecurityContext" .root | nindent 4 }}
  # The last line of a failed init is short and says what to do; kubectl describe pod shows it.
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    {{- include "trtbuild.volumeMounts" . | nindent 4 }}
    {{- if .sku.model.tokenSecret.name }}
    - name: hf-token
      mountPath: /var/run/secrets/huggingface
      readOnly: true
    {{- end }}
    {{- if .root.Values.hub.caBundle.configMap }}
    - name: ca
      mountPath: /etc/trtbuild-ca
      readOnly: true
    {{- end }}
{{- end }}

{{- define "trtbuild.serverContainer" -}}
{{- $health := list "trtbuild" "health" }}
{{- /* One second less than the probe's timeout: the answer says what is wrong, a killed probe does not. */}}
{{- $config := list "--config" "/etc/trtbuild/engine.yaml" "--timeout" (sub (int .sku.probes.timeout) 1 | toString) }}
- name: server
  image: {{ .sku.imageReference | quote }}
  imagePullPolicy: {{ .sku.image.pullPolicy }}
  command: [trtbuild, serve, --config, /etc/trtbuild/engine.yaml]
  env:
    {{- include "trtbuild.env" . | nindent 4 }}
  ports:
    {{- with int .sku.openai.port }}
    - name: openai
      containerPort: {{ . }}
    {{- end }}
    - name: http
      containerPort: 8000
    - name: grpc
      containerPort: 8001
    - name: metrics
      containerPort: 8002
  # Nothing else probes before this one succeeds, so a loading server is never killed inside its load budget.
  startupProbe:
    exec:
      command: {{ toJson (concat $health (list "startup") $config) }}
    periodSeconds: {{ int .sku.probes.startupPeriod }}
    timeoutSeconds: {{ int .sku.probes.timeout }}
    failureThreshold: {{ div (add (int .sku.budgets.load) (int .sku.probes.startupPeriod) -1) (int .sku.probes.startupPeriod) }}
  # A real generation once, then a cheap question.
  readinessProbe:
    exec:
      command: {{ toJson (concat $health (list "ready") $config) }}
    periodSeconds: {{ int .sku.probes.readinessPeriod }}
    timeoutSeconds: {{ int .sku.probes.timeout }}
    failureThreshold: 3
  # Server and every rank. Six misses: a busy node is no reason to throw away a loaded engine.
  livenessProbe:
    exec:
      command: {{ toJson (concat $health (list "live") $config) }}
    periodSeconds: {{ int .sku.probes.livenessPeriod }}
    timeoutSeconds: {{ int .sku.probes.timeout }}
    failureThreshold: 6
  lifecycle:
    preStop:
      exec:
        # Until no request has been in flight for five seconds, in which kube-proxy and proxies stop sending.
        command: {{ list "trtbuild" "drain" "--config" "/etc/trtbuild/engine.yaml" "--timeout" (add (int .sku.budgets.drain) 5 | toString) | toJson }}
  resources:
    {{- include "trtbuild.resources" (dict "sku" .sku "resources" .sku.resources) | nindent 4 }}
  securityContext:
    {{- include "trtbuild.containerSecurityContext" .root | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    {{- include "trtbuild.volumeMounts" . | nindent 4 }}
    {{- if include "trtbuild.hasKeys" .sku }}
    - name: keys
      mountPath: /var/run/secrets/trtbuild
      readOnly: true
    {{- end }}
{{- end }}

{{/* Affinity with the SKU's products in every alternative of the user's own node affinity. */}}
{{- define "trtbuild.affinity" -}}
{{- $affinity := deepCopy (.sku.pod.affinity | default dict) }}
{{- if and .sku.gpus .sku.gpu.products }}
{{- $match := dict "key" .sku.gpu.productLabel "operator" "In" "values" .sku.gpu.products }}
{{- $node := $affinity.nodeAffinity | default dict }}
{{- $required := $node.requiredDuringSchedulingIgnoredDuringExecution | default dict }}
{{- $terms := list }}
{{- range $required.nodeSelectorTerms | default (list dict) }}
{{- $terms = append $terms (mergeOverwrite (dict) . (dict "matchExpressions" (append (.matchExpressions | default list) $match))) }}
{{- end }}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) }}
{{- $_ := set $affinity "nodeAffinity" $node }}
{{- end }}
{{- toYaml $affinity }}
{{- end }}

{{/* Tolerations of everything that may run on the SKU's nodes: the SKU. */}}
{{- define "trtbuild.tolerations" -}}
{{- toYaml (concat (.pod.tolerations | default list) (ternary .gpu.tolerations list (gt (int .gpus) 0) | default list)) }}
{{- end }}

{{/* (dict "root" $ "sku" sku "component" "server"|"prewarm") */}}
{{- define "trtbuild.podSpec" -}}
{{- $selector := include "trtbuild.selectorLabels" (dict "root" .root "component" .component "sku" .sku.name) | fromYaml }}
serviceAccountName: {{ include "trtbuild.serviceAccountName" .root | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .sku.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "trtbuild.podSecurityContext" .root | nindent 2 }}
  {{- with .sku.storage.group }}
  supplementalGroups: [{{ int . }}]
  {{- end }}
{{- with .sku.pod.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .sku.pod.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .sku.pod.schedulerName }}
schedulerName: {{ . | quote }}
{{- end }}
{{- with .sku.pod.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $affinity := include "trtbuild.affinity" . | fromYaml }}
{{- if and (eq .component "prewarm") (gt (int .sku.prewarm.nodes) 1) }}
{{- $apart := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" $selector) }}
{{- $_ := set $affinity "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $apart)) }}
{{- end }}
{{- with $affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "trtbuild.tolerations" .sku | fromYamlArray }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if eq .component "server" }}
{{- with .sku.pod.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ merge (dict) . (dict "labelSelector" (dict "matchLabels" $selector)) | toYaml | nindent 4 | trim }}
  {{- end }}
{{- end }}
# The longest request, five seconds after it, what the server may take after SIGTERM, and 30 s for it to end its ranks.
terminationGracePeriodSeconds: {{ add (int .sku.budgets.drain) 5 (int .sku.server.drainTimeout) 30 }}
{{- else }}
restartPolicy: Never
{{- end }}
{{- $prepare := and .sku.storage.prepareHostPath (or (eq .sku.storage.engines.type "hostPath") (eq .sku.storage.models.type "hostPath")) }}
{{- if or $prepare .sku.pod.initContainers (eq .component "server") }}
initContainers:
  {{- if $prepare }}
  {{- include "trtbuild.prepareContainer" . | trim | nindent 2 }}
  {{- end }}
  {{- with .sku.pod.initContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if eq .component "server" }}
  {{- include "trtbuild.initContainer" . | trim | nindent 2 }}
  {{- end }}
{{- end }}
containers:
  {{- if eq .component "server" }}
  {{- include "trtbuild.serverContainer" . | trim | nindent 2 }}
  {{- with .sku.pod.containers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- else }}
  {{- include "trtbuild.initContainer" . | trim | nindent 2 }}
  {{- end }}
volumes:
  {{- include "trtbuild.volumes" . | nindent 2 }}
{{- end }}
