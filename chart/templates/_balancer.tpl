{{/*
Static configuration of Envoy: the least busy pod for every request (LEAST_REQUEST), pods found by a look-up of the headless Service.
The OpenAI API, HTTP and gRPC are a listener and a cluster each, which counts its own requests.
*/}}

{{/* (dict "name" "http" "port" 8000 "codec" "AUTO") */}}
{{- define "trtbuild.envoyListener" -}}
- name: {{ .name }}
  address: { socket_address: { address: 0.0.0.0, port_value: {{ .port }} } }
  filter_chains:
    - filters:
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: {{ .name }}
            codec_type: {{ .codec }}
            # A request may think for minutes before its first token; only silent connections are closed.
            stream_idle_timeout: 0s
            request_timeout: 0s
            common_http_protocol_options: { idle_timeout: 3600s }
            http_filters:
              - name: envoy.filters.http.router
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
            route_config:
              virtual_hosts:
                - name: all
                  domains: ["*"]
                  routes:
                    - match: { prefix: "/" }
                      route:
                        cluster: {{ .name }}
                        timeout: 0s
                        idle_timeout: 0s
                        # Only what no pod has begun is sent again: a generation is never run twice.
                        retry_policy:
                          retry_on: connect-failure,refused-stream
                          num_retries: 2
                          retry_host_predicate:
                            - name: envoy.retry_host_predicates.previous_hosts
                              typed_config:
                                "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate
                          # Of two idle pods either is drawn: with 3 draws one retry in 16 met the dead pod again.
                          host_selection_retry_max_attempts: 10
{{- end }}

{{/*
(dict "name" "http" "port" 8000 "protocol" "http_protocol_options" "address" host "health" (dict "port" 8000 "path" "/v2/health/ready"))
*/}}
{{- define "trtbuild.envoyCluster" -}}
- name: {{ .name }}
  cluster_type:
    name: envoy.clusters.dns
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster
      dns_refresh_rate: 2s
      respect_dns_ttl: false
  connect_timeout: 2s
  # The least busy of all pods. Of two random ones, both draws may be the same busy pod: one time in four with two pods.
  load_balancing_policy:
    policies:
      - typed_extension_config:
          name: envoy.load_balancing_policies.least_request
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest
            selection_method: FULL_SCAN
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config:
        {{ .protocol }}: {}
  # Queues belong to the pods, where the autoscaler sees them.
  circuit_breakers:
    thresholds:
      - max_connections: 100000
        max_pending_requests: 100000
        max_requests: 100000
        max_retries: 100
  # A dead pod is known within seconds, before the look-up forgets it.
  health_checks:
    - timeout: 2s
      interval: 5s
      unhealthy_threshold: 2
      healthy_threshold: 1
      no_traffic_interval: 5s
      http_health_check: { path: {{ .health.path }} }
  load_assignment:
    cluster_name: {{ .name }}
    endpoints:
      - lb_endpoints:
          - endpoint:
              address: { socket_address: { address: {{ .address }}, port_value: {{ .port }} } }
              health_check_config: { port_value: {{ .health.port }} }
{{- end }}

{{- define "trtbuild.envoyConfig" -}}
{{- $pods := printf "%s.%s.svc.%s" (include "trtbuild.podsServiceName" .) .Release.Namespace .Values.balancing.clusterDomain }}
admin:
  address: { socket_address: { address: 127.0.0.1, port_value: 9901 } }
static_resources:
  listeners:
    {{- with int .Values.openai.port }}
    {{- include "trtbuild.envoyListener" (dict "name" "openai" "port" . "codec" "AUTO") | nindent 4 }}
    {{- end }}
    {{- include "trtbuild.envoyListener" (dict "name" "http" "port" 8000 "codec" "AUTO") | nindent 4 }}
    {{- include "trtbuild.envoyListener" (dict "name" "grpc" "port" 8001 "codec" "HTTP2") | nindent 4 }}
    # Readiness and Prometheus statistics, without the rest of the admin interface.
    - name: stats
      address: { socket_address: { address: 0.0.0.0, port_value: 9902 } }
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: stats
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: stats
                      domains: ["*"]
                      routes:
                        - match: { path: /ready }
                          route: { cluster: admin }
                        - match: { path: /stats/prometheus }
                          route: { cluster: admin }
  clusters:
    {{- $triton := dict "port" 8000 "path" "/v2/health/ready" }}
    {{- with int .Values.openai.port }}
    {{- include "trtbuild.envoyCluster" (dict "name" "openai" "port" . "protocol" "http_protocol_options" "address" $pods "health" (dict "port" . "path" "/health/ready")) | nindent 4 }}
    {{- end }}
    {{- include "trtbuild.envoyCluster" (dict "name" "http" "port" 8000 "protocol" "http_protocol_options" "address" $pods "health" $triton) | nindent 4 }}
    {{- include "trtbuild.envoyCluster" (dict "name" "grpc" "port" 8001 "protocol" "http2_protocol_options" "address" $pods "health" $triton) | nindent 4 }}
    - name: admin
      type: STATIC
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address: { socket_address: { address: 127.0.0.1, port_value: 9901 } }
{{- end }}
