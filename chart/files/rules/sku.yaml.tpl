# One rule group per SKU: constants that the recording and alert rules join on (namespace, release, sku) or
# (namespace, deployment) or (namespace, horizontalpodautoscaler). Rendered by plain text replacement of the @...@ words;
# numbers are plain PromQL numbers. How each is computed: README.md next to this file.
  - name: trtbuild-constants-@RELEASE@-@SKU@
    interval: 30s
    rules:
      - record: trtbuild_sku_info
        expr: vector(1)
        labels: &labels
          namespace: "@NAMESPACE@"
          release: "@RELEASE@"
          sku: "@SKU@"
          deployment: "@DEPLOYMENT@"
          horizontalpodautoscaler: "@HPA@"
      - record: trtbuild_sku_batching_factor
        expr: vector(@BATCHING_FACTOR@)
        labels: *labels
      - record: trtbuild_sku_weight
        expr: vector(@WEIGHT@)
        labels: *labels
      - record: trtbuild_sku_cost_per_hour
        expr: vector(@COST_PER_HOUR@)
        labels: *labels
      - record: trtbuild_sku_target
        expr: vector(@TARGET@)
        labels: *labels
      - record: trtbuild_sku_capacity_before
        expr: vector(@CAPACITY_BEFORE@)
        labels: *labels
      - record: trtbuild_sku_init_budget_seconds
        expr: vector(@INIT_BUDGET_SECONDS@)
        labels: *labels
      - record: trtbuild_sku_load_budget_seconds
        expr: vector(@LOAD_BUDGET_SECONDS@)
        labels: *labels
      - record: trtbuild_sku_warm_init_seconds
        expr: vector(@WARM_INIT_SECONDS@)
        labels: *labels
